"""Weights over depth of models without routers, against what the float64 loops of `naive_rivals.py` use."""

import numpy as np
import pytest
import torch

from limelm.analysis import ActivationReader, RetrievalWeights, retrieval_records, retrieval_weights
from limelm.analysis.retrieval import CONNECTIONS
from limelm.analysis.retrieval_statistics import layer_statistics
from limelm.models.connected import Connection
from limelm.routing import readers_in, routers_in
from tests.models import naive_rivals
from tests.models.naive import rms_norm, softmax
from tests.models.naive_copy import naive_copy
from tests.models.variants import OTHERS, tiny_model, token_ids

#: Of each variant (4 layers) the sources of every row that has a choice, by hand.
SOURCES = {
    "residual_scalars": {1: (0, 1), 2: (0, 2), 3: (0, 3)},
    "dense_former": {2: (0, 2), 3: (1, 3), 4: (0, 2, 4)},
    # Blocks of three sublayers: 0-2 end with delta 3, 3-5 with delta 6; the block under way ends with the newest delta.
    "attention_residuals": {
        1: (0, 1),
        2: (0, 2),
        3: (0, 3),
        4: (0, 3, 4),
        5: (0, 3, 5),
        6: (0, 3, 6),
        7: (0, 3, 6, 7),
        8: (0, 3, 6, 8),
    },
    "delta_attention_residuals": {r: tuple(range(r + 1)) for r in range(1, 8)},
    "mudd_former": {r: tuple(range(r + 1)) for r in range(1, 5)},
    "mudd_former_norms": {r: tuple(range(r + 1)) for r in range(1, 5)},
    "deep_cross_attention": {r: tuple(range(r + 1)) for r in range(1, 5)},
    # The embedding, the sum of what older layers added, and the last.
    "deep_cross_attention_recent": {1: (0, 1), 2: (0, 1, 2), 3: (0, 2, 3), 4: (0, 3, 4)},
}
TOKENS = token_ids(2, 4)
WAYS = ("queries", "keys", "values")
#: What the rows of the first place and of the last one are for.
SETS = {
    "attention_residuals": (("sublayers",), ("sublayers",)),
    "delta_attention_residuals": (("sublayers",), ("sublayers",)),
    "mudd_former": ((*WAYS, "residual stream"), ("residual stream",)),
    "mudd_former_norms": ((*WAYS, "residual stream"), ("residual stream",)),
    "deep_cross_attention": (WAYS, ("queries",)),
    "deep_cross_attention_recent": (WAYS, ("queries",)),
}


def depth_weights(seen):
    """Stand-ins for the formulas of `naive_rivals` that keep the absolute weights `[T, rows, n]` of every call."""
    formulas = {name: getattr(naive_rivals, name) for name in ("depth_attention", "mudd_weights", "gated_sum")}

    def depth_attention(v, w, g, eps, num_heads=1, temperature=1.0, scale_by_sources=False):
        size = len(w) // num_heads
        logits = [rms_norm(v_j, eps) * g * w for v_j in v]
        seen.append(
            torch.stack(
                [
                    torch.stack(
                        [
                            softmax(torch.stack([e[t, m * size : (m + 1) * size].sum() for e in logits]) / temperature)
                            for m in range(num_heads)
                        ]
                    )
                    for t in range(len(v[0]))
                ]
            )
        )
        return formulas["depth_attention"](v, w, g, eps, num_heads, temperature, scale_by_sources)

    def mudd_weights(*args):
        w = formulas["mudd_weights"](*args)
        seen.append(w.abs())
        return w

    def gated_sum(G, b, w):
        tokens = range(len(G[0]))
        rows = [[(b[j] + torch.clamp(w @ G[j][t], min=0)).abs().mean() for j in range(len(G))] for t in tokens]
        seen.append(torch.tensor(rows, dtype=torch.float64)[:, None])
        return formulas["gated_sum"](G, b, w)

    return {"depth_attention": depth_attention, "mudd_weights": mudd_weights, "gated_sum": gated_sum}


@torch.no_grad()
def expected_rows(model, monkeypatch) -> dict[int, np.ndarray]:
    """The shares `[rows, n]` of each place's sources, those of tokens averaged."""
    sequences = []
    for ids in TOKENS:
        seen: list[torch.Tensor] = []
        with monkeypatch.context() as patched:
            for name, formula in depth_weights(seen).items():
                patched.setattr(naive_rivals, name, formula)
            naive_copy(model).hidden_states(ids)
        sequences.append([w / w.sum(dim=-1, keepdim=True) for w in seen])
    means = [np.mean(np.concatenate([w.numpy() for w in calls]), axis=0) for calls in zip(*sequences, strict=True)]
    kind = model.config.model_type
    if kind == "mudd_former":
        return {i + 1: rows for i, rows in enumerate(means)}
    if kind == "deep_cross_attention":  # three calls in a layer
        layers = model.config.num_hidden_layers
        return {i: np.concatenate(means[3 * i : 3 * i + 3]) for i in range(layers + 1)}
    return dict(enumerate(means))


@torch.no_grad()
def static_rows(model) -> dict[int, np.ndarray]:
    rows = {}
    for i, layer in enumerate(model.model.layers):
        if model.config.model_type == "residual_scalars":
            numbers = [layer.connection.embedding_scale.item(), layer.connection.residual_scale.item()]
            rows[i] = np.abs([numbers]) / np.abs(numbers).sum()
        else:
            numbers = layer.connection.weight.double().numpy()
            rows[i + 1] = np.abs(numbers)[None] / np.abs(numbers).sum()
    return rows


def weights_of(variant, **changes) -> tuple[torch.nn.Module, RetrievalWeights]:
    model = tiny_model(variant, **changes)
    weights = retrieval_weights(model, "m", [ids[None] for ids in TOKENS])
    assert weights is not None
    return model, weights


@pytest.mark.parametrize("variant", OTHERS)
def test_the_weights_are_those_of_the_formulas(variant, monkeypatch):
    model, weights = weights_of(variant)
    is_static = variant in ("residual_scalars", "dense_former")
    expected = static_rows(model) if is_static else expected_rows(model, monkeypatch)
    assert weights.sources == SOURCES[variant] and list(weights.layers) == list(SOURCES[variant])
    for place, matrix in weights.layers.items():
        read = list(SOURCES[variant][place])
        np.testing.assert_allclose(matrix[:, read], expected[place], atol=1e-5)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
        assert matrix.shape[1] == place + 1 and not np.delete(matrix, read, axis=1).any()
    first, last = SETS.get(variant, ((), ()))
    sets = list(weights.sets_of.values())
    assert sets[0] == first and sets[-1] == last and weights.sets == first


def test_blocks_that_delta_attention_has_not_finished_are_not_read():
    _, weights = weights_of("delta_attention_residuals", block_size=3)
    assert weights.sources == {3: (0, 3), 4: (0, 3), 5: (0, 3), 6: (0, 3, 6), 7: (0, 3, 6)}
    assert [row["self_weight"] > 0 for row in layer_statistics(weights)] == [True, False, False, True, False]


def test_the_sum_of_older_layers_may_be_left_out():
    _, weights = weights_of("deep_cross_attention", num_recent=2, sum_rest=False)
    assert weights.sources == {1: (0, 1), 2: (0, 1, 2), 3: (0, 2, 3), 4: (0, 3, 4)}


@pytest.mark.parametrize("variant", SETS)
def test_each_set_of_weights_stands_for_itself(variant):
    """Of a place that has one set only, the others have no row."""
    _, weights = weights_of(variant)
    parts = {part.model: part for part in weights.split()}
    assert list(parts) == [f"m ({name})" for name in SETS[variant][0]]
    is_by_sublayer = "sublayers" in weights.sets
    assert all((part.sources_are == "deltas of sublayers") == is_by_sublayer for part in parts.values())
    last = max(weights.layers)
    for name, part in zip(SETS[variant][0], parts.values(), strict=True):
        assert (last in part.layers) == (name in SETS[variant][1]) and part.layers.keys() == part.sources.keys()
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
