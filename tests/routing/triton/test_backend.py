"""Whole routing operators, forward and backward, with the products in Triton and in PyTorch."""

import pytest
import torch

from limelm.routing.ops import operators
from tests.routing.triton import cases

pytest.importorskip("limelm.routing.ops.triton", reason=cases.NEEDS_TRITON)

G, N, D, WIDTH = 3, 7, 20, 4


def sources_of(count, height, columns, dtype):
    """Slices of one buffer, at equal distances."""
    return list(cases.rows(count * height, columns, dtype).split(height))


def both(run):
    """What `run(backend)` returns for each of the backends, from the same random numbers."""
    results = []
    for backend in ("triton", "chunked"):
        torch.manual_seed(0)
        results.append(run(backend))
    return zip(*results, strict=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, N, 30])
@pytest.mark.parametrize("per_token", [False, True])
def test_mix_project(dtype, tokens, per_token):
    def run(backend):
        sources = sources_of(5, 1, tokens * D, dtype)
        weights = cases.rows(5 * G, D, dtype, 0) if per_token else cases.rows(G, 5, dtype, 0)
        gain, k_weight, v_weight = cases.rows(1, D, dtype, 0)[0], *cases.rows(2 * G * WIDTH, D, dtype, 0).chunk(2)
        return operators.mix_project(sources, weights, gain, k_weight, v_weight, per_token, backend)

    for actual, expected in both(run):
        cases.assert_near(actual, expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("slots", [[0, 1, 2], [0, 3, 4]])
@pytest.mark.parametrize("buffer", ["none", "to_add_to", "empty"])
def test_mix_project_backward(dtype, per_token, slots, buffer):
    def run(backend):
        sources = sources_of(3, 1, N * D, dtype)
        weights = cases.rows(3 * G, D, dtype, 0) / D if per_token else cases.rows(G, 3, dtype, 0)
        gain, k_weight, v_weight = cases.rows(1, D, dtype, 0)[0], *cases.rows(2 * G * WIDTH, D, dtype, 0).chunk(2)
        grads = torch.randn(2, G, N, WIDTH, dtype=dtype, device=cases.DEVICE)
        rows = None if buffer == "none" else cases.rows(5, N * D, dtype)
        add = buffer == "to_add_to"
        gradients = operators.mix_project_backward(
            rows, add, slots, *grads, sources, weights, gain, k_weight, v_weight, per_token, backend
        )
        return [*gradients, *([] if rows is None else [rows[list(slots)]])]

    for actual, expected in both(run):
        cases.assert_near(actual, expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("slots", [[0, 1, 2], [0, 3, 4]])
@pytest.mark.parametrize("add", [False, True])
def test_mix_heads(dtype, slots, add):
    def run(backend):
        sources = sources_of(3, G, N * 2 * WIDTH, dtype)
        weights = cases.rows(G, 3 * G, dtype, 0)
        grad_K, grad_V = cases.rows(2 * G, N * WIDTH, dtype).chunk(2)
        buffer = cases.rows(5 * G, N * 2 * WIDTH, dtype)
        mixed = operators.mix_heads(sources, weights, backend)
        gradient = operators.mix_heads_backward(buffer, add, slots, grad_K, grad_V, sources, weights, backend)
        return [*mixed, gradient, buffer.unflatten(0, (5, G))[list(slots)].flatten(0, 1)]

    for actual, expected in both(run):
        cases.assert_near(actual, expected, dtype)
