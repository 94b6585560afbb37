"""A planted router, whose figures are computed by hand."""

import numpy as np
import pytest
import torch

from limelm import LimeConfig, LimeForCausalLM
from limelm.analysis import RetrievalWeights, retrieval_records, retrieval_weights

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
WEIGHTS = {1: [[0.2, 0.8], [0.6, 0.4]], 2: [[0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]}


def records_of(weights) -> dict:
    return retrieval_records(weights)


@pytest.fixture
def planted() -> RetrievalWeights:
    """A static model whose softmax weights are WEIGHTS."""
    model = LimeForCausalLM(LimeConfig(**SHAPE, routing="static")).eval()
    with torch.no_grad():
        for layer, rows in WEIGHTS.items():
            model.model.layers[layer].self_attn.router.weight.copy_(torch.tensor(rows).clamp(min=1e-9).log())
    weights = retrieval_weights(model, "m")
    assert weights is not None
    return weights


def column(records, *keys):
    return [tuple(row[key] for key in keys) for row in records]


def test_every_weight(planted):
    records = records_of(planted)["weights"]
    assert len(records) == 2 * (2 + 3)
    read = {"model": "m", "sources_are": "representations"}
    assert records[4] == {**read, "layer": 2, "head": 0, "source": 0, "weight": pytest.approx(0.1)}
    for row in records:
        assert row["weight"] == pytest.approx(WEIGHTS[row["layer"]][row["head"]][row["source"]], abs=1e-6)


def test_mean_retrieval_by_source(planted):
    """Figure 2: representation 0 is read by layers 1 and 2, with 0.4 and 0.05 on the mean of the heads."""
    rows = records_of(planted)["mean_retrieval"]
    assert column(rows, "source") == [(0,), (1,), (2,)]
    assert [row["mean_weight"] for row in rows] == pytest.approx([(0.4 + 0.05) / 2, (0.6 + 0.6) / 2, 0.35], abs=1e-6)
    assert [row["uniform"] for row in rows] == pytest.approx([(1 / 2 + 1 / 3) / 2, (1 / 2 + 1 / 3) / 2, 1 / 3])


def test_self_retrieval_per_head_and_per_layer(planted):
    """Figures 3 and 10."""
    records = records_of(planted)
    assert [row["weight"] for row in records["self_retrieval"]] == pytest.approx([0.8, 0.4, 0.7, 0.0], abs=1e-6)
    assert [row["weight"] for row in records["self_retrieval_by_layer"]] == pytest.approx([0.6, 0.35], abs=1e-6)


def test_expected_representation(planted):
    """Figure 4."""
    first, second = records_of(planted)["expected_source"]
    keys = ("expected_source", "lowest_head", "highest_head")
    assert tuple(first[key] for key in keys) == pytest.approx((0.6, 0.4, 0.8), abs=1e-6)
    assert tuple(second[key] for key in keys) == pytest.approx((1.3, 1, 1.6), abs=1e-6)


def test_no_preference_is_for_none_of_the_sources_that_a_layer_reads():
    """Layer 2 reads the sources 0 and 2, layer 3 the sources 0 and 1, not its own input."""
    layers = {2: np.array([[0.3, 0, 0.7]]), 3: np.array([[0.5, 0.5, 0, 0]])}
    records = records_of(RetrievalWeights("m", layers, {2: (0, 2), 3: (0, 1)}))
    for name in ("self_retrieval", "self_retrieval_by_layer"):
        assert column(records[name], "weight", "uniform") == [(0.7, 0.5), (0, 0)]
    assert column(records["expected_source"], "expected_source", "uniform") == [(1.4, 1.0), (0.5, 0.5)]
    assert column(records["mean_retrieval"], "source", "uniform") == [(0, 0.5), (1, 0.5), (2, 0.5)]


def test_layer_mass_of_static_routing(planted):
    records = records_of(planted)
    mass = {(row["layer"], row["source"]): row["share"] for row in records["layer_mass"]}
    assert mass[2, 1] == pytest.approx(0.6, abs=1e-6) and mass[1, 0] == pytest.approx(0.4, abs=1e-6)
    assert all(row["absolute"] is None and row["same_head_share"] is None for row in records["layer_mass"])
    assert "pruned_weights" not in records and "retrieval_under_top_p" not in records


def test_kv_by_hand():
    """Layer 1, R of two heads over (source 0: heads 0, 1; source 1: heads 0, 1)."""
    model = LimeForCausalLM(LimeConfig(**SHAPE, routing="kv"))
    with torch.no_grad():
        model.model.layers[1].self_attn.router.weight.copy_(
            torch.tensor([[0.5, -0.5, 1.0, 0.0], [0.0, 3.0, -1.0, 2.0]])
        )
    weights = retrieval_weights(model, "m")
    np.testing.assert_allclose(weights.head_mixes[1][1], [[0, 3], [-1, 2]])
    first, second = (row for row in records_of(weights)["layer_mass"] if row["layer"] == 1)
    # |R| by head and source: head 0 takes 1 and 1, head 1 takes 3 and 3.
    assert (first["share"], second["share"]) == pytest.approx((0.5, 0.5))
    assert (first["absolute"], second["absolute"]) == pytest.approx((2.0, 2.0))
    assert (first["same_head_share"], second["same_head_share"]) == pytest.approx((3.5 / 4, 3.0 / 4))
    assert [row["weight"] for row in records_of(weights)["self_retrieval"][:2]] == pytest.approx([0.5, 0.5])


def test_top_p_by_hand(planted):
    """Table 5 and Figure 9: with p = 0.7 the sums are reached by 0.8; 0.6 + 0.4; 0.7; 1."""
    pruned = {1: np.array([[0, 1], [0.6, 0.4]]), 2: np.array([[0, 0, 1], [0, 1, 0]])}
    records = records_of(RetrievalWeights("m", pruned, planted.sources, top_p=0.7))
    (row,) = records["pruned_weights"]
    assert (row["pruned"], row["weights"], row["padded_weights"]) == (5, 10, 12)
    assert (row["layers"], row["heads"], row["top_p"], row["pruned_share"]) == (3, 2, 0.7, 0.5)
    assert column(records["retrieval_under_top_p"], "depth", "mean_retrieval", "self_retrieval") == [
        (0, pytest.approx(0.15), None),
        (1, pytest.approx(0.6), pytest.approx(0.7)),
        (2, pytest.approx(0.5), pytest.approx(0.5)),
    ]
