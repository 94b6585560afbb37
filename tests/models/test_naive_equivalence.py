"""Forward and backward against the float64 loops of `naive.py` and `entries`."""

import pytest
import torch

from tests.models.naive_copy import naive_copy
from tests.models.variants import (
    LIME_VARIANTS,
    all_variants,
    assert_same_gradients,
    gradients,
    tiny_model,
    token_ids,
)

SMALL = {"num_hidden_layers": 3}


@all_variants
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-5)], ids=["fp32", "fp64"])
def test_logits_and_all_gradients_equal_the_naive_version(variant, training, dtype, tolerance):
    """In float64 what remains is the norms and cosines, which are float32 by definition."""
    model = tiny_model(variant, **SMALL).to(dtype).train(training)
    naive = naive_copy(model)
    input_ids = token_ids(batch=2, tokens=6)

    logits = model(input_ids).logits
    expected = naive.logits(input_ids)
    torch.testing.assert_close(logits.double(), expected, atol=tolerance * expected.abs().max().item(), rtol=0)

    probe = torch.randn(logits.shape, dtype=dtype)
    (logits * probe).sum().backward()
    (expected * probe.double()).sum().backward()
    naive_gradients = {name: weight.grad for name, weight in naive.weights.items()}
    assert_same_gradients(gradients(model), naive_gradients, tolerance)


@all_variants
def test_hidden_states_equal_the_naive_version(variant):
    model = tiny_model(variant, **SMALL)
    input_ids = token_ids(batch=1, tokens=5)
    with torch.no_grad():
        hidden_states = model(input_ids, output_hidden_states=True).hidden_states
        expected = naive_copy(model).hidden_states(input_ids[0])
    assert len(hidden_states) == len(expected) == SMALL["num_hidden_layers"] + 1
    for states, expected_states in zip(hidden_states, expected, strict=True):
        torch.testing.assert_close(states[0].double(), expected_states, atol=1e-4, rtol=1e-5)


@all_variants
def test_every_entry_of_every_router_receives_gradient(variant):
    model = tiny_model(variant).train()
    model(token_ids(), labels=token_ids()).loss.backward()
    for name, gradient in gradients(model).items():
        if name.startswith("model.layers.0.attn_connection") and "attention_residuals" in variant:
            assert not gradient.any()  # of one source there is nothing to choose
            continue
        if "mhc" in variant and "layers.0.attn_connection" in name:
            continue  # its streams are equal: mixing them changes nothing, nor does scaling what a norm reads
        assert gradient.count_nonzero() > 0, name
        if ("router" in name or "connection" in name) and "top_p" not in variant:
            assert gradient.count_nonzero() == gradient.numel(), name


@pytest.mark.parametrize("variant", [name for name in LIME_VARIANTS if "top_p" in name])
def test_pruned_router_entries_receive_no_gradient_and_kept_ones_do(variant):
    model = tiny_model(variant).train()
    model(token_ids(), labels=token_ids()).loss.backward()
    num_pruned = 0
    for layer in model.model.layers[1:]:
        router = layer.self_attn.router
        kept = router.routing_weights() > 0
        shared = kept & (kept.sum(dim=-1, keepdim=True) > 1)  # a weight that is alone is always 1
        assert (router.weight.grad[shared].abs() > 1e-6).all()
        assert (router.weight.grad[~kept].abs() < 1e-8).all()
        num_pruned += int((~kept).sum())
    assert num_pruned > 0


CHANGES = {
    "static": [
        {"routing": "none"},
        {"routing": "dynamic"},
        {"routing": "kv"},
        {"routing_top_p": 0.5},
        {"num_key_value_heads": 2},
        {"num_attention_heads": 8},
        {"num_hidden_layers": 3},
        {"intermediate_size": 40},
        {"hidden_act": "gelu"},
        {"head_dim": 4},
        {"tie_word_embeddings": False},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}},
        {"rms_norm_eps": 0.1},
        {"attention_bias": True},
        {"mlp_bias": True},
    ],
    "static_top_p": [{"routing_top_p": None}, {"routing_top_p": 0.4}, {"rms_norm_eps": 0.1}],
    "dynamic": [{"num_key_value_heads": 2}, {"rms_norm_eps": 0.1}],
    "kv": [{"num_key_value_heads": 2}, {"rms_norm_eps": 0.1}],
    "mhc_gqa": [{"connection": "hc"}, {"expansion_rate": 3}, {"rms_norm_eps": 0.1}],
    "hc_dynamic": [
        {"dynamic": False},
        {"expansion_rate": 3},
        {"num_key_value_heads": 2},
        {"tie_word_embeddings": False},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        {"rms_norm_eps": 0.1},
    ],
}


@pytest.mark.parametrize(
    ("variant", "change"),
    [pytest.param(variant, change, id=f"{variant}-{change}") for variant in CHANGES for change in CHANGES[variant]],
)
@torch.no_grad()
def test_every_config_switch_changes_the_output(variant, change):
    """Parameters that both models have are equal, so only the switch can make the difference."""
    plain, changed = tiny_model(variant), tiny_model(variant, **change)
    difference = (plain(token_ids()).logits - changed(token_ids()).logits).abs().max()
    assert difference > 1e-3
    assert difference.isfinite()


@pytest.mark.parametrize("variant", ["static", "hc_dynamic"])
def test_attention_dropout_acts_in_training_only(variant):
    model = tiny_model(variant, attention_dropout=0.5)
    plain = tiny_model(variant)(token_ids()).logits
    assert torch.equal(model(token_ids()).logits, plain)
    assert (model.train()(token_ids()).logits - plain).abs().max() > 1e-3
