"""Top-p: the definition as a loop, its life in a router, and that a dropped source is not read."""

import pytest
import torch

from limelm.routing import HeadwiseLinear, RouterSpec, StaticRouter, prune, top_p_mask
from tests.models.naive import kept_by_top_p
from tests.models.variants import assert_same_gradients, gradients, tiny_model, token_ids


@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.3, 0.5, 0.77, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 5.0])
def test_mask_equals_the_loop(top_p, sharpness):
    for n in (1, 2, 3, 7, 24):
        weights = (sharpness * torch.randn(40, n, dtype=torch.float64)).softmax(dim=-1)
        mask = top_p_mask(weights, top_p)
        expected = torch.tensor([kept_by_top_p(row, top_p) for row in weights.tolist()])
        if top_p == 1:  # whatever the rounded sums say
            expected = torch.ones_like(expected)
        assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    ("weights", "top_p", "expected"),
    [
        ([0.5, 0.25, 0.25], 0.5, [True, False, False]),  # reached exactly by the first
        ([0.5, 0.25, 0.25], 0.75, [True, True, False]),  # reached exactly by the second; of equals the earlier
        ([0.5, 0.25, 0.25], 0.76, [True, True, True]),
        ([0.25, 0.5, 0.25], 0.51, [True, True, False]),
        ([0.125, 0.125, 0.75], 0.7, [False, False, True]),
        ([1.0], 0.01, [True]),
        ([0.0, 1.0], 1.0, [True, True]),
    ],
)
def test_mask_by_hand(weights, top_p, expected):
    assert top_p_mask(torch.tensor(weights), top_p).tolist() == expected


@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("top_p", [0.3, 0.5, 0.6])
def test_ties_keep_as_many_as_needed_and_no_more(n, top_p):
    mask = top_p_mask(torch.full((3, n), 1 / n), top_p)
    needed = next(count for count in range(1, n + 1) if count / n >= top_p)
    assert mask.sum(dim=-1).tolist() == [needed] * 3


def test_one_keeps_everything_however_small():
    weights = torch.tensor([[0.0, 30.0, -30.0, 60.0]]).softmax(dim=-1)
    assert top_p_mask(weights, 1.0).all()
    assert torch.equal(prune(weights, top_p_mask(weights, 1)), weights / weights.sum())


@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.95])
def test_pruned_weights_sum_to_one_in_old_proportions(top_p):
    weights = (2 * torch.randn(30, 9)).softmax(dim=-1)
    pruned = prune(weights, top_p_mask(weights, top_p))
    mask = top_p_mask(weights, top_p)
    assert torch.equal(pruned > 0, mask)
    assert not mask.all()
    torch.testing.assert_close(pruned.sum(dim=-1), torch.ones(30))
    ratio = torch.where(mask, pruned / weights, torch.nan)
    torch.testing.assert_close(ratio.nan_to_num(0).amax(dim=-1), ratio.nan_to_num(torch.inf).amin(dim=-1))


def make_router(top_p: float | None, rows: list[list[float]], backend: str = "auto") -> StaticRouter:
    spec = RouterSpec(len(rows[0]) - 1, hidden_size=8, num_heads=len(rows), head_dim=8, top_p=top_p, backend=backend)
    router = StaticRouter(spec)
    with torch.no_grad():
        router.weight.copy_(torch.tensor(rows).log())
    return router


EARLY, LATE = [[0.7, 0.2, 0.1], [0.1, 0.45, 0.45]], [[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]


def kept(router: StaticRouter) -> list[list[int]]:
    """For each head what it keeps, by the weights that the router computes with."""
    with torch.no_grad():
        return [row.nonzero().flatten().tolist() for row in router.routing_weights()]


KEPT_EARLY, KEPT_LATE = [[0], [1, 2]], [[2], [0, 1]]


@pytest.mark.parametrize("training", [True, False])
def test_the_mask_is_that_of_the_current_weights(training):
    router = make_router(0.6, EARLY).train(training)
    assert kept(router) == KEPT_EARLY
    with torch.no_grad():
        router.weight.copy_(torch.tensor(LATE).log())
    assert kept(router) == KEPT_LATE


def test_sources_are_left_out_in_evaluation_and_without_gradients_only():
    router = make_router(0.6, EARLY).eval()
    assert router.kept() is None
    with torch.no_grad():
        assert router.kept() == KEPT_EARLY
        assert router.train().kept() is None
        assert make_router(None, EARLY).eval().kept() is None


def keys(router: StaticRouter, *sources: torch.Tensor) -> torch.Tensor:
    """What the heads read, where k_proj hands on its input: `[B, T, G, D]` from sources `[B, T, D]`."""
    heads, hidden_size = router.spec.num_heads, router.spec.hidden_size
    if router.spec.backend == "reference":
        return router(sources[-1], torch.ones(8), lambda Z: Z, lambda Z: Z, None, sources)[0]
    projection = HeadwiseLinear(hidden_size, heads, hidden_size)
    with torch.no_grad():
        projection.weight.copy_(torch.eye(hidden_size).repeat(heads, 1))
    rows = [source.reshape(1, -1) for source in sources]
    return router(sources[-1], torch.ones(hidden_size), projection, projection, None, rows)[0]


backends = pytest.mark.parametrize("backend", ["reference", "chunked"])


@backends
@torch.no_grad()
def test_weights_changed_during_evaluation_still_sum_to_one(backend):
    router = make_router(0.6, EARLY, backend).eval()
    ones = torch.ones(2, 4, 8)
    keys(router, ones, ones, ones)
    router.weight.copy_(torch.tensor(LATE).log())
    ones = torch.ones(2, 4, 8)
    torch.testing.assert_close(keys(router, ones, ones, ones), torch.ones(2, 4, 2, 8))


@pytest.mark.parametrize("variant", ["static_top_p", "static_top_p_gqa"])
def test_evaluation_equals_training(variant):
    model = tiny_model(variant)
    results = []
    for training in (True, False):
        model.train(training)
        logits = model(token_ids()).logits
        logits.square().sum().backward()
        results.append((logits, gradients(model)))
    (masked, masked_gradients), (frozen, frozen_gradients) = results
    torch.testing.assert_close(frozen, masked, atol=1e-5, rtol=1e-5)
    assert_same_gradients(frozen_gradients, masked_gradients, tolerance=2e-5)


@pytest.mark.parametrize(
    ("backend", "rows"),
    [
        ("reference", [[0.05, 0.9, 0.05], [0.05, 0.35, 0.6]]),
        ("chunked", [[0.01, 0.9, *[0.015] * 6], [0.01, *[0.015] * 6, 0.9]]),  # few enough are kept for a sparse product
    ],
)
@torch.no_grad()
def test_a_dropped_source_is_not_read(backend, rows):
    """NaN in a source that no head keeps reaches nothing; in one that some head keeps, that head alone."""
    router = make_router(0.6, rows, backend).eval()
    assert router.kept() == [[1], [len(rows[0]) - 1]]
    sources = [torch.randn(2, 4, 8) for _ in rows[0]]
    clean = keys(router, *sources)
    assert clean.shape == (2, 4, 2, 8)
    dropped = keys(router, torch.full_like(sources[0], torch.nan), *sources[1:])
    assert torch.equal(dropped, clean)
    kept_once = keys(router, sources[0], torch.full_like(sources[1], torch.nan), *sources[2:])
    assert kept_once[:, :, 0].isnan().all()
    assert torch.equal(kept_once[:, :, 1], clean[:, :, 1])


@torch.no_grad()
def test_what_no_head_keeps_is_not_read_where_most_is_kept():
    router = make_router(0.95, [[0.01, 0.3, 0.3, 0.39], [0.01, 0.39, 0.3, 0.3]], "chunked").eval()
    sources = [torch.randn(2, 4, 8) for _ in range(4)]
    assert router.pruning().sources == [1, 2, 3]
    dropped = keys(router, torch.full_like(sources[0], torch.nan), *sources[1:])
    torch.testing.assert_close(dropped, keys(router, *sources))
    assert dropped.isfinite().all()
