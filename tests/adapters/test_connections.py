"""Connections around the layers of a trained model, and Value Residual: harmless at first, exact, alive, and kept."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, StaticCache

from limelm import (
    DenseFormerConfig,
    HyperConnectionConfig,
    LimeForCausalLM,
    attach,
    detach,
    load_adapter,
    parameter_groups,
    save_adapter,
    set_trainable,
)
from limelm.adapters.convert import to_attached, to_native
from limelm.adapters.kinds import ATTACHED_CONNECTIONS
from limelm.analysis.retrieval import retrieval_weights
from limelm.errors import UserError
from tests.adapters.checks import assert_recomputation_changes_no_gradient, assert_token_by_token_is_all_at_once
from tests.adapters.naive_connections import NAIVE
from tests.families import ATTACHABLE, MULTI_HEAD, family_model, router_parameters, tokens, train_routers

KINDS = ["value-residual", *ATTACHED_CONNECTIONS]
WITH_WEIGHTS = [kind for kind in KINDS if kind != "mhc"]
families = pytest.mark.parametrize("family", ATTACHABLE)
kinds = pytest.mark.parametrize("kind", KINDS)
GREEDY = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


def trained(kind: str, family: str = "llama"):
    return train_routers(attach(family_model(family), kind))


@families
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_computes_what_it_did(family, kind, dtype):
    model = family_model(family).to(dtype)
    before = model(tokens()).logits
    attach(model, kind)
    logits = model(tokens()).logits
    if kind == "mhc":  # whose coefficients add up to one but for 1e-6
        torch.testing.assert_close(logits, before, atol=2e-5 if dtype == torch.float32 else 0.05, rtol=0)
    else:
        assert torch.equal(logits, before)
    names = {name for name, parameter in router_parameters(model).items() if parameter.dtype == torch.float32}
    assert names and len(names) == len(router_parameters(model))
    train_routers(model)
    assert not torch.equal(model(tokens()).logits, before)
    assert torch.equal(detach(model)(tokens()).logits, before)


@kinds
def test_a_model_in_float64(kind):
    model = family_model("llama").double()
    before = model(tokens()).logits
    logits = attach(model, kind)(tokens()).logits
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, before, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mhc_loses_nothing_to_rounding(dtype):
    """What a layer adds is not what is left of it after the subtraction in a short format."""
    model = family_model("llama", num_hidden_layers=12, layer_types=None).to(dtype)
    before = model(tokens()).logits
    difference = (attach(model, "mhc")(tokens()).logits - before).abs().max()
    assert difference <= 4 * torch.finfo(dtype).eps * before.abs().max()


def test_connections_do_not_go_into_models_that_have_some():
    for kind in (HyperConnectionConfig, DenseFormerConfig):
        model = AutoModelForCausalLM.from_config(kind(**MULTI_HEAD))
        with pytest.raises(UserError, match="has connections of its own between its layers"):
            attach(model, "mhc")


@pytest.mark.parametrize("layers", range(2, 40, 6))
def test_attention_residuals_start_as_the_base_to_the_bit_at_every_depth(layers):
    model = family_model("llama", num_hidden_layers=layers, layer_types=None)
    before = model(tokens()).logits
    assert torch.equal(attach(model, "attnres")(tokens()).logits, before)


@kinds
def test_equal_to_the_formulas(kind):
    model = trained(kind)
    wanted = NAIVE[kind](model).logits(tokens())
    torch.testing.assert_close(model(tokens()).logits.double(), wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "phi3"])
@kinds
def test_parameters_learn(family, kind):
    """All move within three steps, but for how mHC's first connection mixes streams, which are all the same there."""
    model = attach(family_model(family).train(), kind)
    set_trainable(model)
    groups = parameter_groups(model, learning_rate=1e-3, router_learning_rate=1e-2, weight_decay=0.1)
    assert [(group["name"], group["weight_decay"]) for group in groups] == [("router", 0.0)]
    optimizer = torch.optim.AdamW(groups)
    start = {name: parameter.detach().clone() for name, parameter in router_parameters(model).items()}
    for _ in range(3):
        optimizer.zero_grad()
        model(tokens(), labels=tokens()).loss.backward()
        optimizer.step()
    still = [name for name, parameter in router_parameters(model).items() if torch.equal(parameter, start[name])]
    assert [name.partition("router.")[2] for name in still] == ["connection.mix_scale"] * (kind == "mhc")


@families
@kinds
def test_token_by_token_is_all_at_once(family, kind):
    model = trained(kind, family)
    assert_token_by_token_is_all_at_once(model, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@kinds
def test_recomputed_layers_find_what_was_left(family, kind):
    model = trained(kind, family).train()
    assert_recomputation_changes_no_gradient(model)


@kinds
def test_forwards_may_be_interleaved(kind):
    model = trained(kind).train()
    other = tokens().flip(1)
    for batch in (tokens(), other):
        model(batch, labels=batch).loss.backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    losses = [model(batch, labels=batch).loss for batch in (tokens(), other)]
    sum(losses).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], msg=name)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@kinds
def test_generation(family, kind):
    model = trained(kind, family)
    prompt = tokens(2, 5)
    options = {**GREEDY, "attention_mask": torch.ones_like(prompt)}
    cached = model.generate(prompt, **options)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **options))
    static = StaticCache(config=model.config, max_cache_len=16)
    assert torch.equal(cached, model.generate(prompt, past_key_values=static, **options))
    beams = model.generate(prompt, num_beams=3, **options)
    assert torch.equal(beams, model.generate(prompt, num_beams=3, use_cache=False, **options))


@pytest.mark.parametrize("kind", ["value-residual", "attnres"])  # a list of tensors, and pairs of them; mHC is such too
def test_it_compiles_in_one_graph(kind):
    model = trained(kind)
    wanted = model(tokens(), use_cache=False).logits
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens(), use_cache=False).logits, wanted, atol=1e-5, rtol=1e-5)


@kinds
def test_autocast_and_copies(kind):
    model = copy.deepcopy(trained(kind).train())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(tokens(), labels=tokens()).loss
    loss.backward()
    torch.testing.assert_close(loss, model(tokens(), labels=tokens()).loss, atol=0.05, rtol=0)
    assert all(parameter.grad.dtype == torch.float32 for parameter in router_parameters(model).values())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@kinds
def test_saved_and_loaded(family, kind, tmp_path):
    model = trained(kind, family)
    save_adapter(model, tmp_path)
    loaded = load_adapter(family_model(family), tmp_path)
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    assert "Connections over depth" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_their_weights_can_be_looked_at(kind):
    model = trained(kind)
    weights = retrieval_weights(model, kind, [tokens()])
    places = [1, 2] if kind == "value-residual" else [1, 2, 3]  # behind each layer, or in it
    assert list(weights.layers) == places
    for place, rows in weights.layers.items():
        assert rows.shape[1] == place + 1
        assert abs(rows.sum(axis=1) - 1).max() < 1e-6


def test_streams_of_mhc_have_no_weights_over_depth():
    assert retrieval_weights(trained("mhc"), "mHC") is None


def test_value_residual_converts_and_others_say_why_not():
    model = trained("value-residual")
    native = to_native(model)
    assert isinstance(native, LimeForCausalLM) and native.config.routing == "value_residual"
    torch.testing.assert_close(native(tokens()).logits, model(tokens()).logits, atol=1e-5, rtol=1e-5)
    back = to_attached(native)
    torch.testing.assert_close(back(tokens()).logits, model(tokens()).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="routing='dense': connections around whole layers, which no native model has"):
        to_native(trained("dense"))


@kinds
def test_options_that_they_do_not_have_are_refused(kind):
    with pytest.raises(UserError, match=f"share_kv=False: routing='{kind}' has no such option"):
        attach(family_model("llama"), kind, share_kv=False)
    with pytest.raises(UserError, match=r"routing_sources=.*has no such option"):
        attach(family_model("llama"), kind, routing_sources={"first": 1, "last": 1})


@pytest.mark.parametrize("kind", ["value-residual", "dense"])
def test_reentrant_checkpointing_is_refused(kind):
    model = trained(kind).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(RuntimeError, match="reentrant gradient checkpointing cuts the gradients"):
        model(tokens(), labels=tokens(), use_cache=False)
