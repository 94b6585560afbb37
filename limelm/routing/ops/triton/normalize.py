"""X / rms(X) and its backward in one kernel each; to be called as those in `limelm.routing.ops.rms_norm`."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from limelm.routing.ops import rms_norm
from limelm.routing.ops.triton.launch import Launch, along_rows, cdiv, covering

LONGEST = 16384  # D up to which a program holds whole rows; longer ones are left to PyTorch
ELEMENTS = 2048  # of a program, in as many rows as fit


@triton.jit
def normalize_kernel(X, N, inverse_rms, rows, D, X_stride, N_stride, eps, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """Some rows per program; float32 inside, as the reference has it."""
    row = tl.cast(tl.program_id(0), tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.arange(0, BLOCK_D)[None, :]
    mask = (row[:, None] < rows) & (d < D)
    x = tl.load(X + row[:, None] * X_stride + d, mask=mask, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(x * x, axis=1) / D + eps)
    tl.store(inverse_rms + row, inverse, mask=row < rows)
    scaled = x * inverse[:, None]
    tl.store(N + row[:, None] * N_stride + d, scaled.to(N.dtype.element_ty), mask=mask)


@triton.jit
def normalize_backward_kernel(
    grad,
    N,
    inverse_rms,
    grad_X,
    rows,
    D,
    grad_stride,
    N_stride,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`r (g - u mean(g u))`, some rows per program; the result is contiguous."""
    row = tl.cast(tl.program_id(0), tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.arange(0, BLOCK_D)[None, :]
    mask = (row[:, None] < rows) & (d < D)
    g = tl.load(grad + row[:, None] * grad_stride + d, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(N + row[:, None] * N_stride + d, mask=mask, other=0.0).to(tl.float32)
    inverse = tl.load(inverse_rms + row, mask=row < rows, other=0.0)
    along = tl.sum(g * u, axis=1) / D
    result = (g - u * along[:, None]) * inverse[:, None]
    tl.store(grad_X + row[:, None] * D + d, result.to(grad_X.dtype.element_ty), mask=mask)


def rms_normalize_forward(x: Tensor, eps: float, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """X / rms(X) `[..., D]` in `x`'s dtype (or in `out`, and in its dtype), and 1 / rms(X) `[..., 1]` in float32."""
    if x.shape[-1] > LONGEST:
        return rms_norm.rms_normalize_forward(x, eps, out)
    N = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    inverse_rms = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    plan_normalize(_as_rows(x), _rows_in_place(N), inverse_rms, eps).run()
    return N, inverse_rms


def rms_normalize_backward(grad: Tensor, normalized: Tensor, inverse_rms: Tensor) -> Tensor:
    """Gradient of X from that of X / rms(X): `r (g - u mean(g u))`, with u = X / rms(X) and r = 1 / rms(X)."""
    if grad.shape[-1] > LONGEST:
        return rms_norm.rms_normalize_backward(grad, normalized, inverse_rms)
    grad_X = torch.empty_like(grad, memory_format=torch.contiguous_format)
    plan_normalize_backward(_as_rows(grad), _as_rows(normalized), inverse_rms.contiguous(), grad_X).run()
    return grad_X


def plan_normalize(X: Tensor, N: Tensor, inverse_rms: Tensor, eps: float) -> Launch:
    """How to scale the rows of X `[N, D]` into those of N."""
    arguments: dict[str, Any] = {
        "X": X,
        "N": N,
        "inverse_rms": inverse_rms,
        "rows": len(X),
        "D": X.shape[1],
    }
    arguments |= {"X_stride": X.stride(0), "N_stride": N.stride(0), "eps": eps}
    return _plan(normalize_kernel, arguments, *X.shape)


def plan_normalize_backward(grad: Tensor, N: Tensor, inverse_rms: Tensor, grad_X: Tensor) -> Launch:
    """How to run the backward on rows `[N, D]`."""
    arguments: dict[str, Any] = {"grad": grad, "N": N, "inverse_rms": inverse_rms, "grad_X": grad_X}
    arguments |= {
        "rows": len(grad),
        "D": grad.shape[1],
        "grad_stride": grad.stride(0),
        "N_stride": N.stride(0),
    }
    return _plan(normalize_backward_kernel, arguments, *grad.shape)


def _plan(kernel: Any, arguments: dict[str, Any], rows: int, D: int) -> Launch:
    block_d = covering(D)
    block_r = max(1, ELEMENTS // block_d)
    constants = {"BLOCK_R": block_r, "BLOCK_D": block_d}
    return Launch(kernel, cdiv(rows, block_r), arguments, constants, warps=max(4, block_d // 1024))


def _as_rows(x: Tensor) -> Tensor:
    """`[..., D]` as `[N, D]`, copied only where its rows do not lie at equal distances."""
    return along_rows(x.reshape(-1, x.shape[-1]))


def _rows_in_place(x: Tensor) -> Tensor:
    """`[..., D]` as `[N, D]` in the same memory."""
    rows = x.view(-1, x.shape[-1])
    if rows.stride(1) != 1:
        raise ValueError(f"cannot write rows whose elements lie {rows.stride(1)} apart; they must be contiguous")
    return rows
