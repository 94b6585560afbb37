"""Mixes of rows against float64 einsums and against the products in PyTorch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limelm.routing.ops.chunked import ComputeBackend
from tests.routing.triton import cases

kernels = pytest.importorskip("limelm.routing.ops.triton", reason=cases.NEEDS_TRITON)


@cases.few
@given(cases.seeds, cases.dtypes, cases.sizes, st.integers(1, 150), st.integers(1, 700))
def test_mix(seed, dtype, M, K, X):
    torch.manual_seed(seed)
    weights, S = cases.rows(M, K, dtype), cases.rows(K, X, dtype)
    Z = kernels.TritonBackend().mix_rows(weights, S)
    assert Z.dtype == dtype
    cases.assert_near(Z, torch.einsum("mk,kx->mx", weights.double(), S.double()), dtype)
    cases.assert_near(Z, ComputeBackend().mix_rows(weights, S), dtype)


@cases.few
@given(cases.seeds, cases.dtypes, cases.sizes, st.integers(1, 150), st.integers(1, 700), cases.runs, st.booleans())
def test_backward(seed, dtype, M, K, X, kind, add):
    torch.manual_seed(seed)
    weights, S, grad = cases.rows(M, K, dtype, padding=0), cases.rows(K, X, dtype), cases.rows(M, X, dtype)
    buffer = cases.rows(K + 4, X, dtype)
    expected = buffer.double()
    targets = cases.targets_in(buffer, K, kind)
    grad_weights = kernels.TritonBackend().mix_rows_backward(weights, S, grad, targets, add)
    assert grad_weights.dtype == torch.promote_types(dtype, torch.float32)
    cases.assert_near(grad_weights, torch.einsum("mx,kx->mk", grad.double(), S.double()), dtype)
    grad_S = torch.einsum("mk,mx->kx", weights.double(), grad.double())
    for places, target in cases.targets_in(expected, K, kind):
        target.copy_(target + grad_S[places] if add else grad_S[places])
    cases.assert_near(buffer, expected, dtype)


def test_parts_do_not_depend_on_chance():
    S, grad, weights = (
        cases.rows(5, 999, torch.float32),
        cases.rows(3, 999, torch.float32),
        cases.rows(3, 5, torch.float32),
    )
    first, second = (kernels.TritonBackend().mix_rows_backward(weights, S, grad, [], True) for _ in range(2))
    assert torch.equal(first, second)


def test_what_the_kernel_is_not_made_for_is_left_to_pytorch():
    weights = torch.randn(3, 6, device=cases.DEVICE).relu()
    S = cases.rows(6, 50, torch.float32)
    mixed = kernels.TritonBackend().mix_rows(weights.to_sparse_csr(), S)
    cases.assert_near(mixed, weights @ S, torch.float32)
    many = torch.randn(200, 6, device=cases.DEVICE)
    cases.assert_near(kernels.TritonBackend().mix_rows(many, S), many @ S, torch.float32)
    grad_weights = kernels.TritonBackend().mix_rows_backward(many, S, many @ S, [], True)
    cases.assert_near(grad_weights, many @ S @ S.T, torch.float32)


def test_columns_out_of_order_are_read_as_they_are():
    """An autograd gradient may come transposed."""
    weights, S = torch.randn(3, 6, device=cases.DEVICE), torch.randn(50, 6, device=cases.DEVICE).T
    grad = torch.randn(50, 3, device=cases.DEVICE).T
    cases.assert_near(kernels.TritonBackend().mix_rows(weights, S), weights @ S, torch.float32)
    grad_weights = kernels.TritonBackend().mix_rows_backward(weights, S, grad, [], True)
    cases.assert_near(grad_weights, grad @ S.T, torch.float32)
