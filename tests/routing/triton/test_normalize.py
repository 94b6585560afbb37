"""The RMS kernel against the formula in float64, and against the normalization that it stands in for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limelm.routing.ops import rms_norm
from tests.routing.triton import cases

kernels = pytest.importorskip("limelm.routing.ops.triton", reason=cases.NEEDS_TRITON)
EPS = 1e-6

shapes = (st.integers(1, 4), st.integers(1, 9), st.integers(1, 300))


@cases.few
@given(cases.seeds, cases.dtypes, *shapes, st.sampled_from([None, torch.bfloat16, torch.float32]))
def test_scale(seed, dtype, B, T, D, slot_dtype):
    torch.manual_seed(seed)
    x = torch.randn(B, T, 2 * D, dtype=dtype, device=cases.DEVICE)[..., :D]  # rows at a distance
    slot = None
    if slot_dtype is not None:
        slot = cases.rows(B * T, D, slot_dtype).view(B, T, D)
    normalized, inverse_rms = kernels.rms_normalize_forward(x, EPS, slot)
    assert slot is None or normalized is slot
    assert inverse_rms.dtype == torch.float32 and inverse_rms.shape == (B, T, 1)
    reference, _ = rms_norm.rms_normalize_forward(x, EPS, None if slot is None else torch.empty_like(slot))
    expected = (x.double().pow(2).mean(-1, keepdim=True) + EPS).rsqrt()
    exactness = (
        torch.float32 if normalized.dtype == torch.float64 else normalized.dtype
    )  # float32 inside, whatever comes in
    cases.assert_near(inverse_rms, expected, torch.float32)
    cases.assert_near(normalized, x.double() * expected, exactness)
    cases.assert_near(normalized, reference, exactness)


@cases.few
@given(cases.seeds, cases.dtypes, *shapes)
def test_backward(seed, dtype, B, T, D):
    torch.manual_seed(seed)
    x = torch.randn(B, T, D, dtype=torch.float64, device=cases.DEVICE, requires_grad=True)
    grad = torch.randn(T, B, D, dtype=dtype, device=cases.DEVICE).transpose(0, 1)
    expected = x * (x.pow(2).mean(-1, keepdim=True) + EPS).rsqrt()
    expected.backward(grad.double())
    slot = cases.rows(B * T, D, dtype).view(B, T, D).copy_(expected.detach())
    inverse_rms = (x.detach().pow(2).mean(-1, keepdim=True) + EPS).rsqrt().float()
    actual = kernels.rms_normalize_backward(grad, slot, inverse_rms)
    assert actual.dtype == dtype
    reference = rms_norm.rms_normalize_backward(grad, slot, inverse_rms)
    scale = grad.abs().max().double() * inverse_rms.max().double()  # with few elements the gradient is nearly 0
    tolerance = cases.TOLERANCES[torch.float32 if dtype == torch.float64 else dtype]
    assert (actual - reference).abs().max() <= tolerance * scale
    assert (actual - x.grad).abs().max() <= tolerance * scale


def test_rows_that_the_kernel_does_not_hold_are_left_to_pytorch():
    x = torch.randn(2, 20_000, device=cases.DEVICE)
    normalized, inverse_rms = kernels.rms_normalize_forward(x, EPS)
    assert torch.equal(normalized, rms_norm.rms_normalize_forward(x, EPS)[0])
    expected = rms_norm.rms_normalize_backward(x, normalized, inverse_rms)
    assert torch.equal(kernels.rms_normalize_backward(x, normalized, inverse_rms), expected)


def test_a_place_with_gaps_between_elements_is_refused():
    with pytest.raises(ValueError, match="must be contiguous"):
        kernels.rms_normalize_forward(torch.randn(3, 4), EPS, torch.empty(3, 8)[:, ::2])
