"""Attached routers, looked into: what they retrieve, the values they make, and `limelm analyze` on adapters."""

import copy
import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    DynamicCache,
    GPTJConfig,
    GPTNeoConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from limelm import LimeConfig, LimeForCausalLM
from limelm.adapters import attach, save_adapter
from limelm.analysis import (
    ActivationReader,
    Settings,
    analyze,
    retrieval_records,
    route_effects,
    tokens_of_routes,
    vocabulary_directions,
)
from limelm.analysis.circuits import check_circuits
from limelm.analysis.retrieval import ATTACHED_ROUTERS, CONNECTIONS, ROUTERS, retrieval_weights, routers_of
from limelm.errors import UserError
from limelm.report.analysis import write_analysis
from limelm.training.router_statistics import routing_summary
from tests.analysis.models_on_text import write_study
from tests.analysis.routed import routed_model
from tests.families import ATTACHABLE, MULTI_HEAD, family_model, tokens, train_routers

CPU = torch.device("cpu")
WHAT_IS_READ = ("readers", "depends_on_tokens", "sources_are")
routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])


def llama(routing, heads=2, **options):
    """Four layers, routers attached and trained."""
    torch.manual_seed(0)
    shape = {**MULTI_HEAD, "num_key_value_heads": heads, "num_hidden_layers": 4, "attention_bias": True}
    model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    for layer in model.model.layers:
        layer.input_layernorm.weight.data.uniform_(0.5, 1.5)
    return train_routers(attach(model, routing, **options))


def router(model, layer=2):
    return model.model.layers[layer].self_attn.router


def plant(parameter, values):
    parameter.data = torch.tensor(values, dtype=torch.float32)


def test_kv_weights_by_hand():
    """R is W plus the identity of the own block."""
    model = llama("kv")
    plant(router(model).weight, [[[0.5, -0.5, 0, 0, -0.5, 0], [0, 3, 0, 0, -1, 1]]])
    weights = retrieval_weights(model, "m")
    assert list(weights.layers) == [1, 2, 3] and weights.sources[2] == (0, 1, 2) and weights.sets == ()
    np.testing.assert_allclose(weights.head_mixes[2][0], [[0.5, -0.5], [0, 0], [0.5, 0]])
    np.testing.assert_allclose(weights.head_mixes[2][1], [[0, 3], [0, 0], [-1, 2]])
    np.testing.assert_allclose(weights.layers[2], [[2 / 3, 0, 1 / 3], [0.5, 0, 0.5]], atol=1e-7)
    untrained = retrieval_weights(attach(family_model("llama")), "m")
    np.testing.assert_array_equal(untrained.layers[2], [[0, 0, 1], [0, 0, 1]])


def test_static_weights_by_hand():
    """The own input past the router, and what the gate lets through; beyond 0 and 1 shares of absolute weight."""
    model = llama("static")
    plant(router(model).weight, [np.log([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]).tolist()])
    plant(router(model).gate, [[0.5, 2.0]])
    weights = retrieval_weights(model, "m").layers[2]
    np.testing.assert_allclose(weights[0], [0.25, 0.125, 0.625], atol=1e-7)
    np.testing.assert_allclose(weights[1], [1 / 2, 0.5 / 2, 0.5 / 2], atol=1e-7)  # 1, 0.5 and 0.5 - 1
    plant(router(model).gate, [[0.0, -0.5]])
    weights = retrieval_weights(model, "m").layers[2]
    np.testing.assert_allclose(weights[0], [0, 0, 1], atol=1e-7)
    np.testing.assert_allclose(weights[1], [0.25 / 1.75, 0.125 / 1.75, 1.375 / 1.75], atol=1e-7)


def test_dynamic_priors_by_hand():
    model = llama("dynamic")
    plant(router(model, 3).gate, [[0.6, 1.7]])
    batches = [tokens(2, 5), tokens(1, 7)]
    total = np.zeros((2, 4))
    for batch in batches:
        X = model(batch, output_hidden_states=True).hidden_states[3]
        N = model.model.layers[3].input_layernorm(X).detach().double()
        A = (N @ router(model, 3).weight[0].detach().double().T).unflatten(-1, (2, 4)).softmax(-1)
        gate = router(model, 3).gate[0].detach().double()[:, None]
        effective = gate * A + (1 - gate) * torch.tensor([0, 0, 0, 1.0])
        total += (effective.abs() / effective.abs().sum(-1, keepdim=True)).sum((0, 1)).numpy()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    np.testing.assert_allclose(retrieval_weights(model, "m", batches).layers[3], total / 17, atol=1e-6)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with pytest.raises(ValueError, match="give sequences"):
        retrieval_weights(model, "m")


def native_of(model, routing, sources=None):
    """The native model that equals an attached one; gates must lie between 0 and 1, of dynamic routing be open."""
    config = {**model.config.to_dict(), "routing": routing, "routing_sources": sources}
    native = LimeForCausalLM(LimeConfig(**{name: config[name] for name in config if name != "model_type"})).eval()
    own_weights = {name: value for name, value in model.state_dict().items() if ".router." not in name}
    native.load_state_dict(own_weights, strict=False)
    for layer, attached in zip(native.model.layers[1:], model.model.layers[1:], strict=True):
        own, other = layer.self_attn.router, attached.self_attn.router
        if routing == "kv":
            R = other.weight.detach()[0].clone()
            R[:, -len(R) :] += torch.eye(len(R))
            own.weight.data = R
            continue
        layer.routing_layernorm.weight.data = attached.input_layernorm.weight.data
        if routing == "dynamic":
            other.gate.data.fill_(1)
            own.proj.weight.data = other.weight.detach()[0]
            continue
        gate = other.gate.data.abs().clamp(0.1, 0.9)
        other.gate.data = gate
        A = gate[0, :, None] * other.weight.detach()[0].softmax(-1)
        A[:, -1] += 1 - gate[0]
        own.weight.data = A.log()
    return native


@routings
@pytest.mark.parametrize("sources", [None, {"first": 1, "last": 1}])
def test_an_attached_model_looks_like_the_native_one_that_it_equals(routing, sources):
    model = llama(routing, routing_sources=sources)
    native = native_of(model, routing, sources)
    found, wanted = (retrieval_weights(m, "m", [tokens()]) for m in (model, native))
    assert found.sources == wanted.sources and found.layers.keys() == wanted.layers.keys()
    for name in ("layers", "head_mixes"):
        for layer, rows in getattr(wanted, name).items():
            np.testing.assert_allclose(getattr(found, name)[layer], rows, atol=1e-5)
    seen, expected = (ActivationReader(m, "m")(tokens()) for m in (model, native))
    for name in ("hidden", "values"):
        for one, other in zip(getattr(seen, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
    assert list(seen.routing) == list(expected.routing) == ([1, 2, 3] if routing == "dynamic" else [])
    for layer, A in expected.routing.items():
        torch.testing.assert_close(seen.routing[layer], A, atol=1e-6, rtol=1e-5)
    if routing == "dynamic":
        layers = [m.model.layers[3] for m in (model, native)]
        found, wanted = (tokens_of_routes(layer, vocabulary_directions(native), k=5)[0] for layer in layers)
        torch.testing.assert_close(found.logits, wanted.logits)
        torch.testing.assert_close(found.weights, wanted.weights)


def cached_values(model):
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(tokens(), use_cache=True, past_key_values=cache)
    return [layer.values.transpose(1, 2).flatten(2).float() for layer in cache.layers]


def check_values(model):
    seen = ActivationReader(model, "m")(tokens())
    cached = cached_values(model)
    assert len(seen.values) == len(seen.own_values) == len(cached)
    for values, reaching in zip(seen.values, cached, strict=True):  # sliding windows keep the last tokens only
        torch.testing.assert_close(values[:, -reaching.shape[1] :], reaching)
    return seen


@pytest.mark.parametrize("family", ATTACHABLE)
@routings
def test_values_are_those_that_attention_mixes(family, routing):
    model = train_routers(attach(family_model(family), routing, share_kv=False))
    seen = check_values(model)
    torch.testing.assert_close(seen.values[0], seen.own_values[0])
    assert all(not torch.allclose(*pair) for pair in list(zip(seen.values, seen.own_values, strict=True))[1:])


@routings
@pytest.mark.parametrize("has_run", [False, True])
def test_values_where_a_lora_stands_in_the_place_of_the_projection(routing, has_run):
    """It is hooked after those who look on, and routers of representations call it themselves."""
    peft = pytest.importorskip("peft")
    model = llama(routing)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    if has_run:
        model(tokens())
    seen = check_values(model.eval())
    for layer, X, own in zip(model.model.layers, seen.hidden, seen.own_values, strict=False):
        with torch.no_grad():
            torch.testing.assert_close(own, layer.self_attn.v_proj(layer.input_layernorm(X)), atol=1e-6, rtol=1e-5)


def test_scaling_is_no_routing():
    model = llama("scale")
    assert retrieval_weights(model, "m", [tokens()]) is None and routing_summary(model, tokens()) is None
    seen = ActivationReader(model, "m")(tokens())
    assert seen.own_values == [] and seen.routing == {}
    for values, reaching in zip(seen.values, cached_values(model), strict=True):
        torch.testing.assert_close(values, reaching)


@routings
def test_keys_and_values_with_routers_of_their_own_stand_beside_each_other(routing):
    model = llama(routing, share_kv=False)
    of_keys, of_values = (copy.deepcopy(model) for _ in range(2))
    weights = retrieval_weights(model, "m", [tokens()])
    keys, values = weights.split()
    assert (keys.model, values.model) == ("m (keys)", "m (values)") and keys.num_heads == values.num_heads == 2
    assert not np.allclose(keys.layers[3], values.layers[3])
    np.testing.assert_array_equal(np.concatenate([keys.layers[3], values.layers[3]]), weights.layers[3])
    for place, (other, part) in enumerate([(of_keys, keys), (of_values, values)]):
        for layer in (1, 2, 3):  # the one set for both: whatever stands in a row is of this set
            for parameter in router(other, layer).parameters():
                parameter.data = parameter.data[[place, place]]
        if routing != "dynamic":  # whose states, and so weights, would be others
            (first, second) = retrieval_weights(other, "m").split()
            np.testing.assert_array_equal(first.layers[3], part.layers[3])
            np.testing.assert_array_equal(second.layers[3], part.layers[3])
    rows = retrieval_records(weights)["layer_mass"]
    assert {row["model"] for row in rows} == {"m (keys)", "m (values)"}
    assert all(row["share"] >= 0 and (row["same_head_share"] or 0) <= 1 for row in rows)
    summary = json.loads(json.dumps(routing_summary(model, tokens())))
    assert summary["heads"] == 4 and summary["weights"] == 4 * (2 + 3 + 4)


@pytest.mark.parametrize(
    ("variant", "readers", "depends_on_tokens", "sources_are"),
    [
        ("static", ROUTERS, False, "representations"),
        ("attached kv", ATTACHED_ROUTERS, False, "representations"),
        ("attached dynamic", ATTACHED_ROUTERS, True, "representations"),
        ("attached value-residual", CONNECTIONS, False, "representations"),
        ("value_residual_gqa", CONNECTIONS, False, "representations"),
        ("attached dense", CONNECTIONS, False, "representations"),
        ("attached attnres", CONNECTIONS, True, "deltas of layers"),
        ("attention_residuals", CONNECTIONS, True, "deltas of sublayers"),
    ],
)
def test_records_say_whose_weights_they_are_and_what_the_sources_are(variant, readers, depends_on_tokens, sources_are):
    ids = torch.arange(8)[None]
    records = retrieval_records(retrieval_weights(routed_model(variant), "m", [ids]))
    found = {tuple(row[key] for key in WHAT_IS_READ) for row in records["mean_retrieval"]}
    assert found == {(readers, depends_on_tokens, sources_are)}
    effects = route_effects(routed_model(variant), [ids], largest=0, random=0, with_means=False)
    assert effects.sources_are == sources_are


@routings
def test_where_peft_trains_copies_of_the_routers_these_count(routing):
    peft = pytest.importorskip("peft")
    model = llama(routing)
    expected = retrieval_weights(model, "m", [tokens()]).layers[3]
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["router"])
    wrapped = peft.get_peft_model(model, config).eval()
    for module in routers_of(wrapped).values():
        for parameter in module.parameters():
            parameter.data += 1 + torch.arange(parameter.numel()).view_as(parameter) % 3
    changed = retrieval_weights(wrapped, "m", [tokens()]).layers
    assert list(changed) == [1, 2, 3] and not np.allclose(changed[3], expected)
    copied = wrapped.base_model.model.model.layers[3].self_attn.router.modules_to_save["default"]
    assert routers_of(wrapped)[3] is copied
    seen = ActivationReader(wrapped.base_model.model, "m")(tokens())
    for values, reaching in zip(seen.values, cached_values(wrapped), strict=True):
        torch.testing.assert_close(values, reaching)
    with wrapped.disable_adapter():
        np.testing.assert_allclose(retrieval_weights(wrapped, "m", [tokens()]).layers[3], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "reason"),
    [("gpt2", "its final norm is a LayerNorm"), ("olmo2", "its attention reads representations without a norm")],
)
def test_circuits_that_cannot_be_told_say_why(family, reason):
    with pytest.raises(LookupError, match=reason):
        check_circuits(attach(family_model(family), "dynamic"))
    check_circuits(attach(family_model("gemma2"), "dynamic"))


def test_directions_are_those_from_which_the_head_reads_a_token():
    """Gemma's final norm has the gain 1 + weight."""
    model = family_model("gemma2")
    model.model.norm.weight.data.uniform_(-0.5, 0.5)
    with torch.no_grad():
        read = model.model.norm(vocabulary_directions(model))
    alike = torch.nn.functional.cosine_similarity(read, model.lm_head.weight.detach(), dim=-1)
    torch.testing.assert_close(alike, torch.ones(61))


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4),
        GPTJConfig(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4),
        GPTNeoConfig(vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]]),
    ],
)
def test_families_whose_attention_is_given_no_keywords_are_refused(config):
    with pytest.raises(UserError, match="do not hand keywords on to attention"):
        attach(AutoModelForCausalLM.from_config(config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards, a tiny Llama, and adapters for it."""
    folder = write_study(tmp_path_factory.mktemp("adapters"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokens" / "tokenizer")
    torch.manual_seed(0)
    shape = {**MULTI_HEAD, "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    base = LlamaForCausalLM(LlamaConfig(**shape))
    base.save_pretrained(folder / "bases" / "tiny")
    tokenizer.save_pretrained(folder / "bases" / "tiny")
    for name, routing, shared in [
        ("tiny", "kv", True),
        ("static", "static", True),
        ("dynamic", "dynamic", True),
        ("apart", "dynamic", False),
        ("scale", "scale", True),
    ]:
        model = AutoModelForCausalLM.from_pretrained(folder / "bases" / "tiny")
        save_adapter(train_routers(attach(model, routing, shared)), folder / "adapters" / name)
    return folder


def analysis_of(folder, *names, **settings):
    checkpoints = [str(folder / name) for name in names]
    given = Settings(tokens=320, sequence_length=16, occurrences=12, **settings)
    *_, analysis = analyze(checkpoints, [folder / "tokens"], given, CPU)
    return analysis


def test_analyze_draws_adapters_beside_their_base(folder, tmp_path):
    names = ["bases/tiny", "adapters/tiny", "adapters/static", "adapters/dynamic", "adapters/apart", "adapters/scale"]
    analysis = analysis_of(folder, *names, analyses=("retrieval", "circuits", "entropy"))
    labels = ["tiny (bases)", "tiny (adapters)", *(f"{name} (adapters)" for name in ("static", "dynamic"))]
    labels += [f"{name} (adapters)" for name in ("apart", "scale")]
    assert [model["label"] for model in analysis.models] == labels
    assert [model["routing"] for model in analysis.models] == [None, "kv", "static", "dynamic", "dynamic", "scale"]
    apart = {"apart (adapters) (keys)", "apart (adapters) (values)"}
    for name in ("mean_retrieval", "weights", "layer_mass", "expected_source"):
        assert {row["model"] for row in analysis.records[name]} == {*labels[1:4], *apart}, name
    assert {row["model"] for row in analysis.records["circuits"]} == {labels[3], *apart}
    assert {(row["layer"], row["head"]) for row in analysis.records["circuits"]} == {(1, 0), (1, 1), (2, 0), (2, 1)}
    assert {(note["model"], note["analysis"]) for note in analysis.notes} == {
        *((labels[place], "retrieval") for place in (0, 5)),
        *((labels[place], "circuits") for place in (0, 1, 2, 5)),
    }
    routed = {row["model"] for row in analysis.records["entropy"] if row["states"] == "values before routing"}
    assert routed == set(labels[1:5])
    page = write_analysis(tmp_path / "out", vars(analysis)).read_text()
    assert "apart (adapters) (keys)" in page


def test_the_figures_of_an_adapter_are_those_of_its_model(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "bases" / "tiny")
    weights = retrieval_weights(train_routers(attach(model, "kv")), "tiny")
    records = analysis_of(folder, "adapters/tiny", analyses=("retrieval",)).records
    assert records == retrieval_records(weights)


@pytest.mark.parametrize(
    ("name", "analysis", "message"),
    [
        ("scale", "retrieval", "--only retrieval: no routers in .*scale; retrieval weights are those of LIMe"),
        ("tiny", "circuits", "--only circuits: .*tiny has no dynamic routers"),
    ],
)
def test_what_an_adapter_cannot_show_is_refused(folder, name, analysis, message):
    with pytest.raises(UserError, match=message):
        analysis_of(folder, f"adapters/{name}", analyses=(analysis,))
