import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limelm import HyperConnectionConfig, HyperConnectionForCausalLM, LimeConfig, LimeForCausalLM
from limelm.analysis import (
    RetrievalWeights,
    expected_source,
    mean_by_source,
    retrieval_weights,
    self_retrieval,
    weight_records,
)

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def lime(**options):
    return LimeForCausalLM(LimeConfig(**SHAPE, **options)).eval()


@pytest.mark.parametrize(
    "model",
    [
        LlamaForCausalLM(LlamaConfig(**SHAPE)),
        HyperConnectionForCausalLM(HyperConnectionConfig(**SHAPE)),
        lime(routing="none"),
    ],
)
def test_models_without_routing_have_none(model):
    assert retrieval_weights(model, "model") is None


def test_static_weights_are_the_softmax_and_pruned_ones_are_zero():
    model = lime(routing="static")
    weights = retrieval_weights(model, "static").layers
    assert list(weights) == [1, 2, 3]
    w = model.model.layers[2].self_attn.router.weight.detach().double().numpy()
    np.testing.assert_allclose(weights[2], np.exp(w) / np.exp(w).sum(-1, keepdims=True), atol=1e-7)
    pruned = retrieval_weights(lime(routing="static", routing_top_p=0.3), "top-p").layers[3]
    assert (pruned == 0).any()
    np.testing.assert_allclose(pruned.sum(-1), 1, atol=1e-6)


def test_dynamic_priors_are_means_over_all_tokens():
    model = lime(routing="dynamic")
    batches = [torch.randint(40, (2, 5)), torch.randint(40, (1, 7))]
    weights = retrieval_weights(model, "dynamic", batches).layers
    total = np.zeros((2, 4))
    for batch in batches:
        states = model(batch, output_hidden_states=True).hidden_states
        # Layer 3 reads hidden_states[3]; the last entry is normed, the others are not.
        layer = model.model.layers[3]
        N = layer.routing_layernorm(states[3])
        logits = (N @ layer.self_attn.router.proj.weight.T).unflatten(-1, (2, 4))
        total += logits.softmax(-1).sum((0, 1)).detach().double().numpy()
    np.testing.assert_allclose(weights[3], total / 17, atol=1e-5)
    with pytest.raises(ValueError, match="give sequences"):
        retrieval_weights(model, "dynamic")
    assert not model.model.layers[1].self_attn.router._forward_pre_hooks


def test_kv_weights_are_shares_of_absolute_weight():
    model = lime(routing="kv")
    R = model.model.layers[2].self_attn.router.weight.detach().abs().double().numpy()  # [2, 3 * 2]
    expected = np.stack([R[:, :2].sum(-1), R[:, 2:4].sum(-1), R[:, 4:].sum(-1)], -1)
    weights = retrieval_weights(model, "kv").layers[2]
    np.testing.assert_allclose(weights, expected / expected.sum(-1, keepdims=True), atol=1e-12)
    identity = retrieval_weights(lime(routing="kv", routing_init="identity"), "kv").layers[2]
    np.testing.assert_array_equal(identity, [[0, 0, 1], [0, 0, 1]])


def test_statistics_by_hand():
    layers = {1: np.array([[0.2, 0.8], [0.6, 0.4]]), 2: np.array([[0.1, 0.2, 0.7], [0, 1, 0]])}
    weights = RetrievalWeights("m", layers, {1: (0, 1), 2: (0, 1, 2)})
    assert [(r["source"], r["mean_weight"]) for r in mean_by_source(weights)] == [
        (0, pytest.approx((0.4 + 0.05) / 2)),
        (1, pytest.approx((0.6 + 0.6) / 2)),
        (2, pytest.approx(0.35)),
    ]
    assert [r["uniform"] for r in mean_by_source(weights)] == pytest.approx([5 / 12, 5 / 12, 1 / 3])
    assert [(r["layer"], r["head"], r["weight"]) for r in self_retrieval(weights)] == [
        (1, 0, 0.8),
        (1, 1, 0.4),
        (2, 0, 0.7),
        (2, 1, 0.0),
    ]
    first, second = expected_source(weights)
    assert (first["expected_source"], first["lowest_head"], first["highest_head"]) == pytest.approx((0.6, 0.4, 0.8))
    assert (second["expected_source"], second["lowest_head"], second["highest_head"]) == pytest.approx((1.3, 1, 1.6))
    records = weight_records(weights)
    assert len(records) == 10 and records[4] == {"model": "m", "layer": 2, "head": 0, "source": 0, "weight": 0.1}


@pytest.mark.parametrize("routing", ["static", "dynamic", "kv"])
def test_bounded_routing_has_no_weight_on_what_it_does_not_read(routing):
    model = lime(routing=routing, routing_sources={"first": 1, "last": 1})
    weights = retrieval_weights(model, routing, [torch.randint(40, (2, 5))])
    np.testing.assert_array_equal(weights.layers[3][:, 1:3], 0)
    np.testing.assert_allclose(weights.layers[3].sum(-1), 1, atol=1e-6)
    uniform = {record["source"]: record["uniform"] for record in mean_by_source(weights)}
    assert uniform == pytest.approx(dict.fromkeys(range(4), 0.5))
