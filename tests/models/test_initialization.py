"""What a fresh model starts from, built directly or around the weights of a Llama checkpoint."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limelm import LimeForCausalLM
from tests.models.variants import LIME_VARIANTS, TINY, all_variants, causal_lm_class, tiny_config

WIDE = {"num_hidden_layers": 6, "num_attention_heads": 16, "num_key_value_heads": 16, "hidden_size": 64}


@pytest.fixture(params=["built", "from_llama"])
def fresh(request, tmp_path):
    """A function that makes a fresh model of a LIME variant in either way."""

    def build(variant: str, **changes):
        config = tiny_config(variant, **(WIDE | changes))
        if request.param == "built":
            return LimeForCausalLM(config)
        llama_fields = {name: value for name, value in (TINY | WIDE | changes).items() if "routing" not in name}
        LlamaForCausalLM(LlamaConfig(**llama_fields)).save_pretrained(tmp_path)
        routing = {name: value for name, value in (LIME_VARIANTS[variant] | changes).items() if "routing" in name}
        model = LimeForCausalLM.from_pretrained(tmp_path, **routing)
        saved = LlamaForCausalLM.from_pretrained(tmp_path).state_dict()
        assert all(torch.equal(model.state_dict()[name], value) for name, value in saved.items())
        return model

    return build


def routers(model) -> list:
    return [layer.self_attn.router for layer in model.model.layers[1:]]


@pytest.mark.parametrize("variant", ["static", "static_top_p"])
def test_static_routers_start_small_and_normal(fresh, variant):
    values = torch.cat([router.weight.detach().flatten() for router in routers(fresh(variant))])
    assert len(values) == 16 * (2 + 3 + 4 + 5 + 6)
    assert abs(values.mean()) < 0.02
    assert 0.085 < values.std() < 0.115
    assert values.unique().numel() == len(values)


def test_static_init_does_not_follow_the_initializer_range(fresh):
    values = torch.cat([router.weight.detach().flatten() for router in routers(fresh("static", initializer_range=0.5))])
    assert 0.085 < values.std() < 0.115


def test_dynamic_routers_start_as_linear_layers_do(fresh):
    values = torch.cat([router.proj.weight.detach().flatten() for router in routers(fresh("dynamic"))])
    assert abs(values.mean()) < 1e-3
    assert 0.0195 < values.std() < 0.0205


def test_kv_paper_init(fresh):
    for i, router in enumerate(routers(fresh("kv")), start=1):
        older, own = router.weight.detach()[:, :-16], router.weight.detach()[:, -16:]
        bound = (3 / ((i + 1) * 16)) ** 0.5
        assert torch.equal(own, torch.eye(16))
        assert older.shape == (16, i * 16)
        assert older.abs().max() <= bound
        assert older.abs().max() > 0.95 * bound
        assert abs(older.mean()) < 0.15 * bound
        assert older.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_kv_identity_init(fresh):
    for router in routers(fresh("kv_identity")):
        older, own = router.weight[:, :-16], router.weight[:, -16:]
        assert torch.equal(own, torch.eye(16))
        assert not older.any()


@pytest.mark.parametrize("variant", ["static", "dynamic"])
def test_routing_gains_start_at_one(fresh, variant):
    for layer in fresh(variant).model.layers[1:]:
        assert torch.equal(layer.routing_layernorm.weight, torch.ones(64))


@all_variants
def test_projections_start_as_llamas(variant):
    """Every matrix of every layer, the headwise key and value projections too, is N(0, 0.02)."""
    changes = {"hidden_size": 64, "intermediate_size": 128}
    config = tiny_config(variant, **changes)
    model = causal_lm_class(config)(config)
    projections = [(name, module) for name, module in model.named_modules() if name.endswith("_proj")]
    assert len(projections) == 7 * config.num_hidden_layers
    for name, module in projections:
        assert 0.0185 < module.weight.std() < 0.0215, name
        assert abs(module.weight.mean()) < 2e-3, name
        assert module.bias is None or not module.bias.any(), name
    assert 0.0185 < model.model.embed_tokens.weight.std() < 0.0215


@pytest.mark.parametrize("variant", ["hc_dynamic", "hc_static"])
def test_hyper_connections_start_as_residual_connections(variant):
    config = tiny_config(variant, num_hidden_layers=6)
    n = config.expansion_rate
    for i, layer in enumerate(causal_lm_class(config)(config).model.layers):
        for connection in (layer.attn_connection, layer.mlp_connection):
            read = torch.zeros(n, 1)
            read[i % n] = 1
            assert torch.equal(connection.static_alpha, torch.cat((read, torch.eye(n)), dim=1))
            assert torch.equal(connection.static_beta, torch.ones(n))
            if config.dynamic:
                assert not connection.dynamic_alpha.any()
                assert not connection.dynamic_beta.any()
                assert torch.equal(connection.alpha_scale, torch.tensor([0.01]))
                assert torch.equal(connection.beta_scale, torch.tensor([0.01]))


@all_variants
def test_the_same_seed_gives_the_same_model(variant):
    config = tiny_config(variant)
    models = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        models.append(causal_lm_class(config)(config).state_dict())
    first, again, other = models
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_existing_routers_survive_loading(tmp_path):
    """Initializing what a checkpoint lacks must not touch what it has."""
    model = LimeForCausalLM(tiny_config("kv"))
    with torch.no_grad():
        for router in routers(model):
            router.weight.fill_(0.25)
    state_dict = model.state_dict()
    del state_dict["model.layers.2.self_attn.router.weight"]
    model.save_pretrained(tmp_path, state_dict=state_dict)
    loaded = routers(LimeForCausalLM.from_pretrained(tmp_path))
    assert (loaded[0].weight == 0.25).all()
    assert torch.equal(loaded[1].weight[:, -4:], torch.eye(4))
    assert (loaded[2].weight == 0.25).all()
