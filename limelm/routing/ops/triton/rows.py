"""Mixes of rows, `Z = W S`, and their backward: each piece of the sources is read once, for all heads.

S `[K, tokens * width]` are the sources' rows, W `[tokens, M, K]` one matrix of weights for each token. Static and kv
routing have the same weights for all tokens: for them everything is one long token.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from limelm.routing.ops.triton.arithmetic import add_product
from limelm.routing.ops.triton.launch import DOT_SIDE, Launch, accumulator, along_rows, cdiv, covering, multiprocessors

MOST_MIXES = 128  # M up to which all of a block's mixes are made by one program
TILE = 4096  # elements of a tile of sources or of mixes, at two bytes each: registers for several programs side by side
PROGRAMS_EACH = 4  # programs per multiprocessor that hide each other's waiting


@triton.jit
def mix_kernel(
    weights,
    S,
    Z,
    M,
    K,
    width,
    S_stride,
    Z_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    """Z, BLOCK_X columns of one token per program. Strides are between rows; weights are contiguous."""
    pieces = tl.cdiv(width, BLOCK_X)
    token = tl.cast(tl.program_id(0) // pieces, tl.int64)
    start = tl.cast(tl.program_id(0) % pieces, tl.int64) * BLOCK_X
    m = tl.arange(0, BLOCK_M)[:, None]
    x = tl.arange(0, BLOCK_X)[None, :]
    inside = x < width - start
    first_column = token * width + start
    mixed = tl.zeros((BLOCK_M, BLOCK_X), dtype=ACCUMULATOR)
    for first in range(0, K, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        W = tl.load(weights + token * M * K + m * K + k[None, :], mask=(m < M) & (k[None, :] < K), other=0.0)
        rows = S + first_column + k.to(tl.int64)[:, None] * S_stride
        tile = tl.load(rows + x, mask=(k[:, None] < K) & inside, other=0.0)
        mixed = add_product(mixed, W, tile)
    places = Z + first_column + m.to(tl.int64) * Z_stride + x
    tl.store(places, mixed.to(Z.dtype.element_ty), mask=(m < M) & inside)


@triton.jit
def mix_backward_kernel(
    weights,
    S,
    grad,
    target,
    partial,
    M,
    K,
    width,
    parts,
    S_stride,
    grad_stride,
    target_stride,
    split,
    jump,
    HAS_TARGET: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    """`W^T grad` into the target's rows, and one part of `grad S^T`; BLOCK_K sources of one token per program.

    The target's row k lies at `k * target_stride`, and further by `jump` from row `split` on. `partial` is
    `[tokens, parts, M, K]`; a part takes every parts-th block of columns.
    """
    source_blocks = tl.cdiv(K, BLOCK_K)
    program = tl.program_id(0)
    part = program // source_blocks
    token = tl.cast(part // parts, tl.int64)
    m = tl.arange(0, BLOCK_M)[:, None]
    column = (program % source_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    k = (program % source_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)[:, None]
    x = tl.arange(0, BLOCK_X)[None, :]
    is_weight = (m < M) & (column < K)
    W = tl.load(weights + token * M * K + m * K + column, mask=is_weight, other=0.0)
    S_rows = S + token * width + k.to(tl.int64) * S_stride
    grad_rows = grad + token * width + m.to(tl.int64) * grad_stride
    shift = (k >= split).to(tl.int64) * jump  # tl.where would hide that it is a multiple of 16: no wide stores
    target_rows = target + token * width + k.to(tl.int64) * target_stride + shift
    grad_W = tl.zeros((BLOCK_M, BLOCK_K), dtype=ACCUMULATOR)
    for piece in range(part % parts, tl.cdiv(width, BLOCK_X), parts):
        start = tl.cast(piece, tl.int64) * BLOCK_X
        inside = x < width - start
        grad_tile = tl.load(grad_rows + start + x, mask=(m < M) & inside, other=0.0)
        tile = tl.load(S_rows + start + x, mask=(k < K) & inside, other=0.0)
        grad_W = add_product(grad_W, grad_tile, tl.trans(tile))
        if HAS_TARGET:
            grad_S = tl.zeros((BLOCK_K, BLOCK_X), dtype=ACCUMULATOR)
            if ADD:
                grad_S += tl.load(target_rows + start + x, mask=(k < K) & inside, other=0.0).to(ACCUMULATOR)
            grad_S = add_product(grad_S, tl.trans(W), grad_tile)
            tl.store(target_rows + start + x, grad_S.to(target.dtype.element_ty), mask=(k < K) & inside)
    places = partial + tl.cast(part, tl.int64) * M * K + m * K + column
    tl.store(places, grad_W, mask=is_weight)


class RowPlaces(NamedTuple):
    """Where the rows of a gradient lie in one buffer: row k at `k * stride`, further by `jump` from row `split` on."""

    base: Tensor
    stride: int
    split: int
    jump: int


def row_places(targets: Sequence[tuple[slice, Tensor]], rows: int) -> RowPlaces | None:
    """One or two targets as the kernel takes them; None where they are none, more, or leave rows out."""
    if not 1 <= len(targets) <= 2 or targets[0][0].start != 0 or targets[-1][0].stop != rows:
        return None
    (first, base), (last, other) = targets[0], targets[-1]
    if base.stride(1) != 1:
        return None
    if base is other:
        return RowPlaces(base, base.stride(0), rows, 0)
    is_one_buffer = base.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    same_stride = base.stride() == other.stride() or min(len(base), len(other)) == 1
    if first.stop != last.start or not is_one_buffer or not same_stride:
        return None
    stride = base.stride(0) if len(base) > 1 else other.stride(0)
    jump = other.storage_offset() - base.storage_offset() - last.start * stride
    return RowPlaces(base, stride, last.start, jump)


def plan_mix(weights: Tensor, S: Tensor, Z: Tensor, tokens: int) -> Launch:
    """How to mix S `[K, tokens * width]` with weights `[tokens, M, K]` into Z `[M, tokens * width]`."""
    *_, M, K = weights.shape
    width = S.shape[1] // tokens
    block_m, block_k = covering(M, DOT_SIDE), covering(K, DOT_SIDE, 64)
    block_x = covering(width, DOT_SIDE, max(32, min(256, TILE * 2 // (block_m * S.element_size()))))
    while block_x > 32 and tokens * cdiv(width, block_x) < multiprocessors(S.device):
        block_x //= 2
    return Launch(
        mix_kernel,
        tokens * cdiv(width, block_x),
        {
            "weights": weights,
            "S": S,
            "Z": Z,
            "M": M,
            "K": K,
            "width": width,
            "S_stride": S.stride(0),
            "Z_stride": Z.stride(0),
        },
        {"BLOCK_M": block_m, "BLOCK_K": block_k, "BLOCK_X": block_x, "ACCUMULATOR": accumulator(S.dtype)},
    )


def plan_mix_backward(
    weights: Tensor, S: Tensor, grad: Tensor, places: RowPlaces | None, add: bool, tokens: int
) -> tuple[Launch, Tensor]:
    """How to run the backward of a mix, and where parts `[tokens, parts, M, K]` of the weights' gradient will be."""
    *_, M, K = weights.shape
    width = S.shape[1] // tokens
    block_m, block_k = covering(M, DOT_SIDE), covering(K, DOT_SIDE, 64)
    widest = TILE * 2 // (max(block_m, block_k) * S.element_size())
    block_x = covering(width, DOT_SIDE, max(DOT_SIDE, min(128, widest)))
    parts = _even_parts(width, block_x, multiprocessors(S.device) * PROGRAMS_EACH // (tokens * cdiv(K, block_k)))
    dtype = torch.promote_types(S.dtype, torch.float32)
    partial = S.new_empty(tokens, parts, M, K, dtype=dtype)
    target = RowPlaces(S, 0, 0, 0) if places is None else places
    launch = Launch(
        mix_backward_kernel,
        tokens * parts * cdiv(K, block_k),
        {
            "weights": weights,
            "S": S,
            "grad": grad,
            "target": target.base,
            "partial": partial,
            "M": M,
            "K": K,
            "width": width,
            "parts": parts,
            "S_stride": S.stride(0),
            "grad_stride": grad.stride(0),
            "target_stride": target.stride,
            "split": target.split,
            "jump": target.jump,
        },
        {
            "HAS_TARGET": places is not None,
            "ADD": add,
            "BLOCK_M": block_m,
            "BLOCK_K": block_k,
            "BLOCK_X": block_x,
            "ACCUMULATOR": accumulator(S.dtype),
        },
        warps=8 if block_k * block_x > TILE // 2 else 4,
    )
    return launch, partial


def _even_parts(width: int, block: int, wanted: int) -> int:
    """The number of parts to deal the blocks into, about as many as wanted, so that all get equally many."""
    blocks = cdiv(width, block)
    return cdiv(blocks, cdiv(blocks, max(1, wanted)))


def mix_by_token(weights: Tensor, S: Tensor) -> Tensor:
    """`Z_t = W_t S_t`: weights `[tokens, M, K]` and S `[K, tokens * width]` to Z `[M, tokens * width]`."""
    Z = S.new_empty(weights.shape[1], S.shape[1])
    plan_mix(weights, S, Z, len(weights)).run()
    return Z


def mix_by_token_backward(
    weights: Tensor, S: Tensor, grad: Tensor, targets: Sequence[tuple[slice, Tensor]], add: bool
) -> Tensor:
    """Parts `[tokens, parts, M, K]` of the weights' gradient, to be summed, from `grad` `[M, tokens * width]`.

    The gradient of S goes to `targets`, row ranges of one buffer: added, or written where `add` is false.
    """
    S, grad = along_rows(S), along_rows(grad)
    places = row_places(targets, len(S))
    launch, partial = plan_mix_backward(weights, S, grad, places, add, len(weights))
    launch.run()
    if places is None:
        for rows, target in targets:
            _add_mix_transposed(weights[:, :, rows], grad, target, add)
    return partial


def _add_mix_transposed(weights: Tensor, grad: Tensor, target: Tensor, add: bool) -> None:
    """The gradient of the sources in PyTorch, for more targets than a kernel takes."""
    by_token = grad.unflatten(1, (len(weights), -1)).transpose(0, 1)  # [tokens, M, width]
    grad_S = torch.bmm(weights.transpose(1, 2), by_token).transpose(0, 1)
    target = target.view(grad_S.shape)
    _ = target.add_(grad_S) if add else target.copy_(grad_S)
