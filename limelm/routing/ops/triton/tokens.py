"""Routing per token: logits and softmax in one kernel, the mix in another, of which the backward is one pass too.

Logits need the whole width of a token, the mix any part of it: two kernels, so that each has as many programs as the
device runs, be it for one token. What passes between them are the weights, n numbers per head and token.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from limelm.routing.ops.triton.arithmetic import add_product
from limelm.routing.ops.triton.launch import DOT_SIDE, Launch, accumulator, along_rows, cdiv, covering, multiprocessors
from limelm.routing.ops.triton.rows import mix_by_token, mix_by_token_backward

MOST_SOURCES = 1024  # n up to which one program holds all logits of a head
LOGITS = 4096  # of a program at most, unless a single head has more
OPERANDS = 32 * 1024  # bytes of P and of tokens that a program reads at a time


@triton.jit
def route_kernel(
    P,
    X,
    A,
    tokens,
    heads,
    n,
    D,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    """`A[t, h] = softmax_j(X_t P[h n + j])`, BLOCK_T tokens and BLOCK_H heads per program; all contiguous."""
    head_blocks = tl.cdiv(heads, BLOCK_H)
    t = (tl.program_id(0) // head_blocks) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.arange(0, BLOCK_H * BLOCK_N)
    h = (tl.program_id(0) % head_blocks) * BLOCK_H + column // BLOCK_N
    j = column % BLOCK_N
    is_row = (h < heads) & (j < n)
    X_rows = X + t.to(tl.int64)[:, None] * D
    P_rows = P + (h * n + j).to(tl.int64)[:, None] * D
    logits = tl.zeros((BLOCK_T, BLOCK_H * BLOCK_N), dtype=ACCUMULATOR)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)[None, :]
        x = tl.load(X_rows + d, mask=(t[:, None] < tokens) & (d < D), other=0.0)
        p = tl.load(P_rows + d, mask=is_row[:, None] & (d < D), other=0.0)
        logits = add_product(logits, x, tl.trans(p))
    logits = tl.where((j < n)[None, :], logits, float("-inf"))
    by_head = tl.reshape(logits, (BLOCK_T, BLOCK_H, BLOCK_N))
    exponentials = tl.exp(by_head - tl.max(by_head, axis=2)[:, :, None])
    weights = exponentials / tl.sum(exponentials, axis=2)[:, :, None]
    places = A + t.to(tl.int64)[:, None] * heads * n + (h * n + j)[None, :]
    weights = tl.reshape(weights, (BLOCK_T, BLOCK_H * BLOCK_N)).to(A.dtype.element_ty)
    tl.store(places, weights, mask=(t[:, None] < tokens) & is_row[None, :])


@triton.jit
def softmax_backward_kernel(
    A,
    partial,
    grad_logits,
    rows,
    heads,
    n,
    parts,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    """`A (dA - sum_j A dA)`, dA the sum of partial `[tokens, parts, heads, n]`; A's rows are tokens times heads."""
    row = tl.cast(tl.program_id(0), tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    j = tl.arange(0, BLOCK_N)[None, :]
    mask = (row[:, None] < rows) & (j < n)
    first_part = ((row // heads) * parts * heads + row % heads)[:, None]
    grad_A = tl.zeros((BLOCK_R, BLOCK_N), dtype=ACCUMULATOR)
    for part in range(parts):
        grad_A += tl.load(partial + (first_part + part * heads) * n + j, mask=mask, other=0.0)
    weights = tl.load(A + row[:, None] * n + j, mask=mask, other=0.0).to(ACCUMULATOR)
    grad = weights * (grad_A - tl.sum(weights * grad_A, axis=1)[:, None])
    tl.store(grad_logits + row[:, None] * n + j, grad.to(grad_logits.dtype.element_ty), mask=mask)


def plan_route(P: Tensor, X: Tensor, A: Tensor) -> Launch:
    """How to route X `[c, D]` with P `[G n, D]` into A `[c, G, n]`."""
    tokens, heads, n = A.shape
    D = X.shape[1]
    block_n = covering(n)
    block_t = covering(tokens, DOT_SIDE, 64)
    block_h = max(1, min(64 // block_n, covering(heads)))
    least_heads = max(1, DOT_SIDE // block_n)
    block_h = max(block_h, least_heads)

    def programs() -> int:
        return cdiv(tokens, block_t) * cdiv(heads, block_h)

    while block_t > DOT_SIDE and (programs() < multiprocessors(X.device) or block_t * block_h * block_n > LOGITS):
        block_t //= 2
    while block_h > least_heads and programs() < multiprocessors(X.device):
        block_h //= 2
    at_once = OPERANDS // ((block_t + block_h * block_n) * X.element_size())
    block_d = max(DOT_SIDE, min(covering(at_once + 1) // 2, 128, covering(D)))
    return Launch(
        route_kernel,
        programs(),
        {"P": P, "X": X, "A": A, "tokens": tokens, "heads": heads, "n": n, "D": D},
        {
            "BLOCK_T": block_t,
            "BLOCK_H": block_h,
            "BLOCK_N": block_n,
            "BLOCK_D": block_d,
            "ACCUMULATOR": accumulator(X.dtype),
        },
        warps=8 if block_t * block_h * block_n > LOGITS else 4,
    )


def plan_softmax_backward(A: Tensor, partial: Tensor, grad_logits: Tensor) -> Launch:
    """How to get the logits' gradient `[c, G n]` from A `[c, G, n]` and parts of its gradient, `[c, parts, G, n]`."""
    tokens, parts, heads, n = partial.shape
    block_n = covering(n)
    block_r = max(1, 1024 // block_n)
    return Launch(
        softmax_backward_kernel,
        cdiv(tokens * heads, block_r),
        {
            "A": A,
            "partial": partial,
            "grad_logits": grad_logits,
            "rows": tokens * heads,
            "heads": heads,
            "n": n,
            "parts": parts,
        },
        {"BLOCK_R": block_r, "BLOCK_N": block_n, "ACCUMULATOR": accumulator(partial.dtype)},
    )


def mix_tokens(P: Tensor, S: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Route per token: A `[c, G, n]` and Z `[G, c, D]` from P `[G n, D]` and S `[n, c D]`."""
    S, D = along_rows(S), P.shape[1]
    current = S[-1].view(-1, D)
    A = S.new_empty(len(current), heads, len(S))
    plan_route(P.contiguous(), current, A).run()
    return A, mix_by_token(A, S).view(heads, -1, D)


def mix_tokens_backward(
    S: Tensor, A: Tensor, grad: Tensor, targets: Sequence[tuple[slice, Tensor]], add: bool
) -> Tensor:
    """The logits' gradient `[c, G n]` from `grad` `[G, c, D]`, as in `chunked.ComputeBackend`."""
    A = A.contiguous()
    partial = mix_by_token_backward(A, S, grad.flatten(1), targets, add)
    grad_logits = S.new_empty(len(A), A[0].numel())
    plan_softmax_backward(A, partial, grad_logits).run()
    return grad_logits
