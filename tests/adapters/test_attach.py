"""Routers in models that were trained without them: harmless at first, alive, and gone without a trace."""

import copy
import threading

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

from limelm import LimeConfig, LimeForCausalLM
from limelm.adapters import attach, detach
from limelm.errors import UserError
from limelm.training.trainer import checkpoint_activations
from tests.adapters.families import CONFIGS, MULTI_HEAD, family_model, router_parameters, tokens, train_routers

families = pytest.mark.parametrize("family", CONFIGS)
OPTIONS = [{}, {"share_kv": False}, {"routing_sources": {"first": 1, "last": 1}}]


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_model_computes_what_it_did(family, dtype, options):
    model = family_model(family).to(dtype)
    before = model(tokens()).logits
    assert attach(model, **options) is model
    assert torch.equal(model(tokens()).logits, before)


@families
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_reach_every_entry(family, options):
    model = attach(family_model(family).train(), **options)
    model(tokens(), labels=tokens()).loss.backward()
    routers = router_parameters(model)
    assert len(routers) == 2  # of three layers the first has nothing to choose from
    assert all((parameter.grad != 0).all() for parameter in routers.values())


@families
def test_detach_gives_the_original_back(family):
    model = family_model(family)
    before, names, hooks = model(tokens()).logits, list(model.state_dict()), count_hooks(model)
    train_routers(attach(model))
    assert not torch.equal(model(tokens()).logits, before)
    assert detach(model) is model
    assert torch.equal(model(tokens()).logits, before)
    assert list(model.state_dict()) == names and count_hooks(model) == hooks


def count_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@families
def test_token_by_token_is_all_at_once(family):
    model = train_routers(attach(family_model(family)))
    everything = model(tokens()).logits
    cache = None
    for position in range(tokens().shape[1]):
        output = model(tokens()[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        torch.testing.assert_close(output.logits[:, 0], everything[:, position], atol=2e-6, rtol=1e-5)


@families
def test_recomputed_layers_find_their_history(family):
    model = train_routers(attach(family_model(family).train()))
    model(tokens(), labels=tokens(), use_cache=False).loss.backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    checkpoint_activations(model)
    model(tokens(), labels=tokens(), use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], msg=name)


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("sources", [None, {"first": 1, "last": 2}])
def test_an_attached_llama_is_the_native_model(heads, sources):
    """R is the identity of the own block plus the attached router's weight."""
    shape = {**MULTI_HEAD, "num_key_value_heads": heads, "num_hidden_layers": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    native = LimeForCausalLM(LimeConfig(**shape, routing="kv", routing_sources=sources)).eval()
    native.load_state_dict(model.state_dict(), strict=False)
    train_routers(attach(model, routing_sources=sources))
    for layer, attached in zip(native.model.layers[1:], model.model.layers[1:], strict=True):
        R = attached.self_attn.router.weight.detach()[0].clone()
        R[:, -heads:] += torch.eye(heads)
        layer.self_attn.router.weight.data = R
    torch.testing.assert_close(model(tokens()).logits, native(tokens()).logits, atol=2e-6, rtol=1e-5)


def test_keys_and_values_have_routers_of_their_own_where_they_are_not_shared():
    shared, apart = (attach(family_model("llama"), share_kv=share) for share in (True, False))
    train_routers(shared)
    for one, two in zip(router_parameters(shared).values(), router_parameters(apart).values(), strict=True):
        assert two.shape == (2, *one.shape[1:])
        two.data = one.data.repeat(2, 1, 1)
    assert torch.equal(shared(tokens()).logits, apart(tokens()).logits)
    for parameter in router_parameters(apart).values():
        parameter.data[1] = 0
    assert not torch.equal(shared(tokens()).logits, apart(tokens()).logits)


def test_forwards_may_be_interleaved():
    model = train_routers(attach(family_model("llama").train()))
    first, second = tokens(2, 11), tokens(3, 7)
    wanted = []
    for batch in (first, second):
        model.zero_grad()
        model(batch, labels=batch).loss.backward()
        wanted.append({name: parameter.grad.clone() for name, parameter in router_parameters(model).items()})
    model.zero_grad()
    losses = [model(batch, labels=batch).loss for batch in (first, second)]
    with torch.no_grad():
        model(tokens(1, 5))
    losses[0].backward()
    losses[1].backward()
    for name, parameter in router_parameters(model).items():
        torch.testing.assert_close(parameter.grad, wanted[0][name] + wanted[1][name])


def test_models_and_threads_do_not_disturb_each_other():
    models = [train_routers(attach(family_model("llama", seed), share_kv=bool(seed)), seed) for seed in range(2)]
    copied = copy.deepcopy(models[0])
    wanted = [model(tokens()).logits for model in models]
    assert torch.equal(copied(tokens()).logits, wanted[0])
    for parameter in router_parameters(copied).values():
        parameter.data.zero_()
    assert torch.equal(models[0](tokens()).logits, wanted[0])
    assert not torch.equal(copied(tokens()).logits, wanted[0])
    equal = []

    def run(model, logits):
        with torch.no_grad():
            equal.append(all(torch.equal(model(tokens()).logits, logits) for _ in range(20)))

    threads = [threading.Thread(target=run, args=pair) for pair in [*zip(models, wanted, strict=True)] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 4


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gpt2"])
def test_generation(family):
    model = train_routers(attach(family_model(family)))
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    prompt = tokens(2, 5)
    mask = torch.ones_like(prompt)
    cached = model.generate(prompt, attention_mask=mask, **options)
    assert torch.equal(cached, model.generate(prompt, attention_mask=mask, use_cache=False, **options))
    beams = model.generate(prompt, attention_mask=mask, num_beams=3, **options)
    assert torch.equal(beams, model.generate(prompt, attention_mask=mask, num_beams=3, use_cache=False, **options))


def test_it_compiles_in_one_graph():
    model = train_routers(attach(family_model("llama")))
    wanted = model(tokens(), use_cache=False).logits
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens(), use_cache=False).logits, wanted, atol=2e-6, rtol=1e-5)


def test_autocast():
    model = train_routers(attach(family_model("llama").train()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(tokens(), labels=tokens()).loss
    loss.backward()
    torch.testing.assert_close(loss, model(tokens(), labels=tokens()).loss, atol=0.02, rtol=0)
    assert all(parameter.grad.dtype == torch.float32 for parameter in router_parameters(model).values())


def test_router_parameters_are_float32_whatever_the_model_is():
    model = attach(family_model("llama").to(torch.bfloat16))
    assert {parameter.dtype for parameter in router_parameters(model).values()} == {torch.float32}


def test_bad_input():
    with pytest.raises(UserError, match="routing='mean' is unknown; allowed: kv"):
        attach(family_model("llama"), routing="mean")
    with pytest.raises(ValueError, match="routing_sources"):
        attach(family_model("llama"), routing_sources={"last": 1})
    with pytest.raises(UserError, match="has routers already; detach them first"):
        attach(attach(family_model("llama")))
    with pytest.raises(UserError, match="has no attached routers"):
        detach(family_model("llama"))
    with pytest.raises(UserError, match="BloomBlock: no attention found; looked for self_attn, attention, attn"):
        attach(BloomForCausalLM(BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4)))


def test_a_native_model_is_refused():
    shape = {**MULTI_HEAD, "num_key_value_heads": 2}
    with pytest.raises(UserError, match="LimeForCausalLM: has routers already"):
        attach(LimeForCausalLM(LimeConfig(**shape, routing="kv")))


def test_a_layer_alone_has_no_history():
    model = attach(family_model("llama"))
    hidden = torch.randn(1, 3, 32)
    embeddings = model.model.rotary_emb(hidden, torch.arange(3)[None])
    with pytest.raises(RuntimeError, match="run the whole decoder"):
        model.model.layers[1](hidden, position_embeddings=embeddings)
