import math

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CodeGenConfig,
    DynamicCache,
    FalconConfig,
    GPTBigCodeConfig,
    MambaConfig,
)

from limelm.analysis import ActivationReader
from limelm.errors import UserError
from limelm.routing import ROUTERS
from tests.families import CONFIGS, family_model
from tests.models.variants import LIME_VARIANTS, VARIANTS, all_variants, tiny_model, token_ids

TINY = {"vocab_size": 61, "hidden_size": 32, "bos_token_id": 0, "eos_token_id": 0}


def expected(model, ids):
    """Hidden states as HF returns them, and the values that reach the cache: another way to both."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        outputs = model(ids, output_hidden_states=True, use_cache=True, past_key_values=cache)
    values = [layer.values.transpose(1, 2).flatten(2) for layer in cache.layers]
    return outputs.hidden_states, values


def check(model):
    ids = token_ids() % model.config.vocab_size
    seen = ActivationReader(model, "m")(ids)
    hidden, values = expected(model, ids)
    assert len(seen.hidden) == len(hidden)
    for read, given in zip(seen.hidden[:-1], hidden[:-1], strict=True):
        torch.testing.assert_close(read, given)
    for read, given in zip(seen.values, values, strict=True):
        torch.testing.assert_close(read, given)
    return seen, hidden[-1]


@pytest.mark.parametrize("family", CONFIGS)
def test_of_other_families(family):
    model = family_model(family, sliding_window=64)  # a cache keeps the values within its window only
    seen, _ = check(model)
    assert seen.own_values == [] and seen.routing == {}


def test_the_model_is_left_without_hooks():
    model = family_model("gpt2")
    ActivationReader(model, "m")(token_ids() % 61)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("variant", ["kv_gqa", "value_residual_gqa", "depth_attention_gqa"])
def test_a_layers_own_values_are_made_with_its_lora(variant):
    peft = pytest.importorskip("peft")
    model = tiny_model(variant)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    seen = ActivationReader(model.eval(), "m")(token_ids())
    for layer, X, own in zip(model.model.layers, seen.hidden, seen.own_values, strict=False):
        with torch.no_grad():
            torch.testing.assert_close(own, layer.self_attn.v_proj(layer.input_layernorm(X)), atol=1e-6, rtol=1e-5)


@all_variants
def test_of_our_models(variant):
    model = tiny_model(variant)
    seen, last = check(model)
    torch.testing.assert_close(model.model.norm(seen.hidden[-1]), last)  # X_L is before the final norm
    assert (len(seen.own_values) == 4) == (variant in LIME_VARIANTS and not variant.startswith("none"))


@pytest.mark.parametrize("backend", ["chunked", "reference"])
@pytest.mark.parametrize("variant", [name for name in LIME_VARIANTS if not name.startswith("none")])
def test_values_before_routing_are_those_of_the_own_input_alone(variant, backend):
    model = tiny_model(variant)
    if ROUTERS[model.config.routing].has_fast_path:
        model = tiny_model(variant, routing_backend=backend)
    seen = ActivationReader(model, "m")(token_ids())
    torch.testing.assert_close(seen.own_values[0], seen.values[0])  # layer 0 has no choice
    for layer, X, own in zip(model.model.layers, seen.hidden, seen.own_values, strict=False):
        norm = layer.routing_layernorm if layer.self_attn.mixes_representations else layer.input_layernorm
        projection = layer.self_attn.v_proj
        expected_values = nn.functional.linear(norm(X), projection.weight, projection.bias)
        torch.testing.assert_close(own, expected_values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_dynamic_weights_are_distributions_over_what_is_read(backend):
    model = tiny_model("dynamic", routing_backend=backend, routing_sources={"first": 1, "last": 1})
    seen = ActivationReader(model, "m")(token_ids())
    assert list(seen.routing) == [1, 2, 3]
    A = seen.routing[3]
    assert A.shape == (2, 9, 4, 4) and (A[..., [0, 3]] > 0).all() and (A[..., [1, 2]] == 0).all()
    torch.testing.assert_close(A.sum(-1), torch.ones(2, 9, 4))


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        (FalconConfig(num_hidden_layers=2, num_attention_heads=4, **TINY), "FalconAttention of model_type 'falcon'"),
        # As wide as GPT-2's and Phi-3's, and in another order.
        (GPTBigCodeConfig(n_layer=2, n_head=4, multi_query=False, **TINY), "GPTBigCodeAttention of model_type"),
        (
            CodeGenConfig(n_layer=2, n_head=4, rotary_dim=4, n_ctx=64, **TINY),
            "CodeGenAttention of model_type 'codegen'",
        ),
        (MambaConfig(num_hidden_layers=2, **TINY), "MambaBlock: no attention found"),
    ],
)
def test_values_that_cannot_be_found_are_said_to_be_missing(config, missing):
    reader = ActivationReader(AutoModelForCausalLM.from_config(config).eval(), "m")
    assert missing in reader.values_missing
    seen = reader(token_ids() % 61)
    assert len(seen.hidden) == 3 and seen.values == []


def test_a_model_whose_layers_are_not_to_be_found_is_refused():
    model = family_model("llama")
    model.config.num_hidden_layers = 17
    with pytest.raises(UserError, match="m: LlamaForCausalLM: no list of 17 decoder layers found in LlamaModel"):
        ActivationReader(model, "m")


@pytest.mark.parametrize("variant", [VARIANTS[0], "static", "hc_dynamic"])
def test_nan_is_refused_with_its_place(variant):
    model = tiny_model(variant)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(UserError, match="m: NaN or infinity in the hidden states of representation 2"):
        ActivationReader(model, "m")(token_ids())
