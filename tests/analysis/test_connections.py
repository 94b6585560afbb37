"""Weights over depth of models without routers, against what their float64 loops use."""

import numpy as np
import pytest
import torch

from limelm.analysis import ActivationReader, RetrievalWeights, retrieval_records, retrieval_weights
from limelm.analysis.retrieval import CONNECTIONS
from limelm.analysis.retrieval_statistics import layer_statistics
from limelm.models.connected import Connection
from limelm.routing import readers_in, routers_in
from tests.models.naive_copy import naive_copy
from tests.models.variants import OTHERS, entry_of, tiny_model, token_ids

TOKENS = token_ids(2, 4)


@torch.no_grad()
def expected_rows(model) -> dict[int, np.ndarray]:
    """The shares `[rows, n]` of each place's sources, those of tokens averaged."""
    naive = naive_copy(model)
    for ids in TOKENS:
        naive.hidden_states(ids)
    found = {place: torch.cat(sizes).numpy() for place, sizes in naive.weights_over_depth.items()}
    return {place: (sizes / sizes.sum(axis=-1, keepdims=True)).mean(axis=0) for place, sizes in found.items()}


def weights_of(variant, **changes) -> tuple[torch.nn.Module, RetrievalWeights]:
    model = tiny_model(variant, **changes)
    weights = retrieval_weights(model, "m", [ids[None] for ids in TOKENS])
    assert weights is not None
    return model, weights


@pytest.mark.parametrize("variant", OTHERS)
def test_the_weights_are_those_of_the_formulas(variant):
    model, weights = weights_of(variant)
    expected, expected_sources = expected_rows(model), entry_of(variant).sources[variant]
    assert weights.sources == expected_sources and list(weights.layers) == list(expected_sources)
    for place, matrix in weights.layers.items():
        read = list(expected_sources[place])
        np.testing.assert_allclose(matrix[:, read], expected[place], atol=1e-5)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
        assert matrix.shape[1] == place + 1 and not np.delete(matrix, read, axis=1).any()
    first, last = entry_of(variant).sets.get(variant, ((), ()))
    sets = list(weights.sets_of.values())
    assert sets[0] == first and sets[-1] == last and weights.sets == first


def test_blocks_that_delta_attention_has_not_finished_are_not_read():
    _, weights = weights_of("delta_attention_residuals", block_size=3)
    assert weights.sources == {3: (0, 3), 4: (0, 3), 5: (0, 3), 6: (0, 3, 6), 7: (0, 3, 6)}
    assert [row["self_weight"] > 0 for row in layer_statistics(weights)] == [True, False, False, True, False]


def test_the_sum_of_older_layers_may_be_left_out():
    _, weights = weights_of("deep_cross_attention", num_recent=2, sum_rest=False)
    assert weights.sources == {1: (0, 1), 2: (0, 1, 2), 3: (0, 2, 3), 4: (0, 3, 4)}


@pytest.mark.parametrize("variant", [variant for variant in OTHERS if variant in entry_of(variant).sets])
def test_each_set_of_weights_stands_for_itself(variant):
    """Of a place that has one set only, the others have no row."""
    _, weights = weights_of(variant)
    parts = {part.model: part for part in weights.split()}
    first, last_sets = entry_of(variant).sets[variant]
    assert list(parts) == [f"m ({name})" for name in first]
    is_by_sublayer = "sublayers" in weights.sets
    assert all((part.sources_are == "deltas of sublayers") == is_by_sublayer for part in parts.values())
    last = max(weights.layers)
    for name, part in zip(first, parts.values(), strict=True):
        assert (last in part.layers) == (name in last_sets) and part.layers.keys() == part.sources.keys()
    rows = [row for part in parts.values() for row in retrieval_records(part)["weights"]]
    assert {row["readers"] for row in retrieval_records(weights)["mean_retrieval"]} == {CONNECTIONS}
    assert retrieval_records(weights)["weights"] == rows
    assert len(rows) == sum(len(matrix) * len(weights.sources[place]) for place, matrix in weights.layers.items())


def test_weights_that_are_all_zero_stay_so():
    """As in a fresh MUDDFormer with norms, which reads the newest output beside its mix."""
    model = tiny_model("mudd_former_norms")
    for layer in model.model.layers:
        layer.connection.init_weights()
    weights = retrieval_weights(model, "m", [token_ids()])
    assert all((matrix == 0).all() for matrix in weights.layers.values())
    assert {row["entropy"] for row in layer_statistics(weights)} == {0}


@pytest.mark.parametrize("variant", ["deep_cross_attention", "attention_residuals"])
def test_a_reader_of_activations_sees_them_token_by_token(variant):
    model, weights = weights_of(variant)
    routing = ActivationReader(model, "m")(TOKENS).routing
    assert list(routing) == list(weights.layers)
    for place, A in routing.items():
        assert A.shape == (*TOKENS.shape, *weights.layers[place].shape)
        np.testing.assert_allclose(A.mean(dim=(0, 1)), weights.layers[place], atol=1e-6)


def test_every_model_s_readers_are_its_connections_and_no_routers():
    for variant in OTHERS:
        readers = [*readers_in(tiny_model(variant))]
        assert readers and all(isinstance(reader, Connection) for reader in readers)
        assert not [*routers_in(tiny_model(variant))]
