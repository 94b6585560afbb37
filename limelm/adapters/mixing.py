"""Mixes of what layers left in the rows of a matrix, with gradients that a carrier brings (`limelm.routing.ops`).

Unlike the operations of this package's own models these stop before the projection, which may be a module of any kind.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from limelm.routing.ops.autograd import gradient_buffer, pass_on, refuse_second_gradient
from limelm.routing.ops.chunked import ROWS_AT_ONCE, ComputeBackend, GradientRows
from limelm.routing.ops.source_matrix import as_one, chunks, runs

COMPUTE = ComputeBackend()
SECOND_GRADIENT = (
    "the gradient of a gradient through attached routers: backward(create_graph=True) cannot follow them; the "
    "transforms of torch.func (grad, jvp, hessian) can"
)


def keep_rows(state: Tensor, carrier: Tensor, place: Tensor, row: int) -> Tensor:
    """Put a state into its place in the matrix, and its gradient into the carrier.

    Args:
        state: `[r, ...]`.
        place: `[r, ...]`.
        row: the first one of the carrier's that are the state's.

    Returns:
        The carrier for the next reader.
    """
    return _Keep.apply(state, carrier, place, row)


def mix(carrier: Tensor | None, weights: Tensor, blocks: Sequence[Tensor], places: Sequence[int]) -> tuple:
    """Mix rows: `Y_m = sum_k W[m, k] S_k`; or per token, with the same sum over the sources of its own entries.

    Args:
        carrier: brings the sources' gradients, or None where they need none.
        weights: `[M, K]`; or `[N, G, K]` for each of N tokens.
        blocks: the sources' rows, K in all, `[rows, X]`.
        places: which of the carrier's states they are; negative for those before its first, which need no gradient.

    Returns:
        `[M, X]`, or `[N, G, X / N]`; and the carrier for the next reader.
    """
    if torch.is_grad_enabled():
        return _Mix.apply(carrier, weights, tuple(places), *blocks)
    return _mixed(weights, blocks), carrier


def _by_token(S: Tensor, tokens: int) -> Tensor:
    """`[K, N D]` seen as `[N, K, D]`."""
    return S.unflatten(1, (tokens, -1)).transpose(0, 1)


def _mixed(weights: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    S = as_one(blocks)
    if weights.ndim == 2:
        return weights @ S if len(weights) < ROWS_AT_ONCE else COMPUTE.mix_rows(weights, S)
    return torch.bmm(weights, _by_token(S, len(weights)))


class _Keep(torch.autograd.Function):
    """The gradient of what a layer leaves is that of all its readers."""

    @staticmethod
    def forward(ctx, state, carrier, place, row):
        place.copy_(state)
        ctx.rows, ctx.shape, ctx.dtype = slice(row, row + len(state)), state.shape, state.dtype
        ctx.set_materialize_grads(False)
        return pass_on(carrier)

    @staticmethod
    def backward(ctx, grad_carrier):
        refuse_second_gradient(SECOND_GRADIENT)
        if grad_carrier is None:
            return (None,) * 4
        own = grad_carrier[ctx.rows, : ctx.shape[1:].numel()].view(ctx.shape)
        return own.to(ctx.dtype), grad_carrier, None, None


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, carrier, weights, places, *blocks):
        ctx.save_for_backward(weights, *blocks)
        ctx.places = places
        ctx.carried = None if carrier is None else carrier.shape
        ctx.set_materialize_grads(False)
        return _mixed(weights, blocks), None if carrier is None else pass_on(carrier)

    @staticmethod
    def backward(ctx, grad, grad_carrier):
        refuse_second_gradient(SECOND_GRADIENT)
        weights, *blocks = ctx.saved_tensors
        nothing = [None] * (1 + len(blocks))
        if grad is None:
            return grad_carrier, None, *nothing
        S = as_one(blocks)
        gradients = _gradient_rows(grad_carrier, ctx.carried, ctx.places, S)
        backward = _rows_backward if weights.ndim == 2 else _tokens_backward
        grad_weights = backward(weights, S, grad.to(S.dtype), gradients)
        return None if gradients is None else gradients.buffer, grad_weights.to(weights.dtype), *nothing


def _gradient_rows(
    buffer: Tensor | None, carried: torch.Size | None, places: Sequence[int], S: Tensor
) -> GradientRows | None:
    """Where the sources' gradients go; a fresh buffer of the carrier's shape where this reader is the last."""
    each, before = len(S) // len(places), sum(place < 0 for place in places)
    buffer, add = gradient_buffer(buffer, carried, (len(places) - before) * each, S)
    if buffer is None:
        return None
    targets = [(start + before, stop + before, first) for start, stop, first in runs(places[before:])]
    return GradientRows(buffer, targets, each, add)


def _rows_backward(weights: Tensor, S: Tensor, grad: Tensor, gradients: GradientRows | None) -> Tensor:
    targets = [] if gradients is None else gradients.targets(0, S.shape[1])
    add = gradients is not None and gradients.add
    return COMPUTE.mix_rows_backward(weights, S, grad, targets, add)


def _tokens_backward(weights: Tensor, S: Tensor, grad: Tensor, gradients: GradientRows | None) -> Tensor:
    """The backward of weights per token, in chunks: gradients of sources are made by token before they are added."""
    grad_weights, width = torch.empty_like(weights), grad.shape[-1]
    bytes_each = 4 * len(S) * width * S.element_size()  # these are beside the buffer, and add to the peak
    for start, stop in chunks(len(weights), bytes_each, S.device):
        part = grad[start:stop]
        columns = (start * width, stop * width)
        sources = _by_token(S[:, slice(*columns)], stop - start)
        torch.bmm(part, sources.transpose(1, 2), out=grad_weights[start:stop])
        if gradients is None:
            continue
        for rows, target in gradients.targets(*columns):
            grad_sources = torch.bmm(weights[start:stop, :, rows].transpose(1, 2), part).transpose(0, 1)
            target = target.unflatten(1, (stop - start, -1))
            _ = target.add_(grad_sources) if gradients.add else target.copy_(grad_sources)
    return grad_weights
