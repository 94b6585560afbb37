"""Routing per token against float64 einsums and against the products in PyTorch."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from limelm.routing.ops.chunked import ComputeBackend
from tests.routing.triton import cases

kernels = pytest.importorskip("limelm.routing.ops.triton", reason=cases.NEEDS_TRITON)

shapes = (st.integers(1, 9), st.integers(1, 20), st.integers(1, 19), st.integers(1, 140))  # G, n, c, D


def drawn(seed, dtype, G, n, c, D):
    torch.manual_seed(seed)
    P = torch.randn(G * n, D, dtype=dtype, device=cases.DEVICE) / D**0.5
    return P, cases.rows(n, c * D, dtype)


def expected_route(P, S, G):
    """A `[c, G, n]` and Z `[G, c, D]` in float64."""
    P, S = P.double().unflatten(0, (G, -1)), S.double().unflatten(1, (-1, P.shape[1]))
    A = torch.einsum("td,gnd->tgn", S[-1], P).softmax(dim=-1)
    return A, torch.einsum("tgn,ntd->gtd", A, S)


@cases.few
@given(cases.seeds, cases.dtypes, *shapes)
@example(0, torch.float32, 32, 16, 1, 96)
@example(0, torch.bfloat16, 8, 128, 3, 64)
@example(0, torch.float64, 1, 1, 1, 1)
def test_mix(seed, dtype, G, n, c, D):
    P, S = drawn(seed, dtype, G, n, c, D)
    for A, Z in (kernels.TritonBackend().mix_tokens(P, S, G), ComputeBackend().mix_tokens(P, S, G)):
        assert A.dtype == Z.dtype == dtype
        for actual, expected in zip((A, Z), expected_route(P, S, G), strict=True):
            cases.assert_near(actual, expected, dtype)


@cases.few
@given(cases.seeds, cases.dtypes, *shapes, cases.runs, st.booleans())
@example(0, torch.float32, 32, 16, 1, 96, "all", True)
@example(0, torch.bfloat16, 8, 128, 3, 64, "two", True)
def test_backward(seed, dtype, G, n, c, D, kind, add):
    P, S = drawn(seed, dtype, G, n, c, D)
    A = expected_route(P, S, G)[0].to(dtype)
    grad, buffer = torch.randn(G, c, D, dtype=dtype, device=cases.DEVICE), cases.rows(n + 4, c * D, dtype)
    expected = buffer.double()
    targets = cases.targets_in(buffer, n, kind)
    grad_logits = kernels.TritonBackend().mix_tokens_backward(P, S, A, grad, targets, add)
    assert grad_logits.dtype == dtype
    grad_S = torch.einsum("tgn,gtd->ntd", A.double(), grad.double()).flatten(1)
    for places, target in cases.targets_in(expected, n, kind):
        target.copy_(target + grad_S[places] if add else grad_S[places])
    cases.assert_near(buffer, expected, dtype)
    grad_A = torch.einsum("gtd,ntd->tgn", grad.double(), S.double().unflatten(1, (c, D)))
    from_softmax = A.double() * (grad_A - (A.double() * grad_A).sum(dim=-1, keepdim=True))
    cases.assert_near(grad_logits, from_softmax.flatten(1), dtype)


def test_large_logits_do_not_overflow():
    P, S = drawn(0, torch.float32, 2, 3, 4, 16)
    A, _ = kernels.TritonBackend().mix_tokens(1e4 * P, S, 2)
    cases.assert_near(A, expected_route(1e4 * P, S, 2)[0], torch.float32)


def test_more_heads_than_the_kernel_takes_are_left_to_pytorch():
    P, S = drawn(0, torch.float32, 200, 3, 2, 16)
    A, Z = kernels.TritonBackend().mix_tokens(P, S, 200)
    expected_A, expected_Z = expected_route(P, S, 200)
    cases.assert_near(A, expected_A, torch.float32)
    cases.assert_near(Z, expected_Z, torch.float32)
