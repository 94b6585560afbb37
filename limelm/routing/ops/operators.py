"""The routing operations as operators of PyTorch (`torch.ops.limelm.*`), one definition for eager and compiled runs.

A compiler sees each as one node; without one the functions here run directly, which spares the dispatcher. The backward
operators write to the gradient buffer that they are given, and say so: a compiler lets all of a model's readers write
into one buffer as they do without it, and copies none.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.library import custom_op

from limelm.routing.ops import chunked
from limelm.routing.ops.backends import compute_backend, without_autocast
from limelm.routing.ops.chunked import GradientRows
from limelm.routing.ops.source_matrix import runs


def operator(function: Callable) -> Callable:
    """The function itself; under a compiler its registered form."""
    return _REGISTERED[function] if torch.compiler.is_compiling() else function


def mix_project(
    sources: list[Tensor],
    weights: Tensor,
    gain: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    per_token: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """K and V `[G, N, d]`; arguments as in `autograd.mix_project`."""
    routing, projection, _ = _folded(sources, weights, gain, k_weight, v_weight, per_token)
    with without_autocast(gain):
        return chunked.mix_project(compute_backend(backend), sources, routing, projection, per_token)


def mix_project_backward(
    buffer: Tensor | None,
    add: bool,
    source_ids: list[int],
    grad_K: Tensor,
    grad_V: Tensor,
    sources: list[Tensor],
    weights: Tensor,
    gain: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    per_token: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weights, gain, and both projections as one `[G, 2 d, D]`; the sources' go to the buffer.

    Args:
        buffer: `[rows of all sources, at least as many columns as a source has]`; None where sources need no gradients.
        add: whether the buffer holds gradients of later readers; else its rows are written.
        source_ids: which of all sources were read.
    """
    routing, projection, W = _folded(sources, weights, gain, k_weight, v_weight, per_token)
    with without_autocast(gain):
        gradients = _rows(buffer, add, source_ids, sources)
        grad_weights, grad_W = chunked.mix_project_backward(
            compute_backend(backend), grad_K, grad_V, sources, routing, projection, per_token, gradients
        )
    grad_gain = (grad_W * W).sum(dim=(0, 1))
    if per_token:
        grad_gain = grad_gain + (grad_weights * weights).sum(dim=0)
        grad_weights = grad_weights * gain
    return grad_weights.to(weights.dtype), grad_gain.to(gain.dtype), (grad_W * gain).to(k_weight.dtype)


def fold_into_routing(weights: Tensor, gain: Tensor, per_token: bool, dtype: torch.dtype) -> Tensor:
    """Routing weights for sources without their gain: a token's own source, of which they are made, has one too."""
    return (weights * gain if per_token else weights).to(dtype)


def _heads(sources: list[Tensor], weights: Tensor, per_token: bool) -> int:
    """G, of routing weights `[G, n]` or, per token, `[G n, D]`."""
    return len(weights) // sum(map(len, sources)) if per_token else len(weights)


def _folded(
    sources: list[Tensor], weights: Tensor, gain: Tensor, k_weight: Tensor, v_weight: Tensor, per_token: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Routing weights and projection for sources without their gain, and the projection as it was, by head."""
    dtype, heads = sources[0].dtype, _heads(sources, weights, per_token)
    W = torch.cat([weight.unflatten(0, (heads, -1)) for weight in (k_weight, v_weight)], dim=1)  # [G, 2 d, D]
    return fold_into_routing(weights, gain, per_token, dtype), (gain * W).to(dtype), W


def mix_heads(sources: list[Tensor], weights: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """K and V `[S G, N d]`; arguments as in `autograd.mix_heads`."""
    with without_autocast(weights):
        return chunked.mix_heads(compute_backend(backend), sources, weights.to(sources[0].dtype))


def mix_heads_backward(
    buffer: Tensor | None,
    add: bool,
    source_ids: list[int],
    grad_K: Tensor | None,
    grad_V: Tensor | None,
    sources: list[Tensor],
    weights: Tensor,
    backend: str,
) -> Tensor:
    """The gradient of the weights; arguments as for `mix_project_backward`."""
    with without_autocast(weights):
        gradients = _rows(buffer, add, source_ids, sources)
        R = weights.to(sources[0].dtype)
        gradient = chunked.mix_heads_backward(compute_backend(backend), (grad_K, grad_V), sources, R, gradients)
    return gradient.to(weights.dtype)


def _rows(buffer: Tensor | None, add: bool, source_ids: list[int], sources: list[Tensor]) -> GradientRows | None:
    """The rows of the gradient buffer that are these sources'."""
    if buffer is None:
        return None
    return GradientRows(buffer, runs(source_ids), sum(map(len, sources)) // len(source_ids), add)


_MUTATED: dict[Callable[..., object], tuple[str, ...]] = {
    mix_project: (),
    mix_project_backward: ("buffer",),
    mix_heads: (),
    mix_heads_backward: ("buffer",),
}
_REGISTERED = {
    function: custom_op(f"limelm::{function.__name__}", mutates_args=mutated)(function)
    for function, mutated in _MUTATED.items()
}


@_REGISTERED[mix_project].register_fake
def _(sources, weights, gain, k_weight, v_weight, per_token, backend):
    heads = _heads(sources, weights, per_token)
    K = sources[0].new_empty(heads, sources[0].shape[1] // len(gain), len(k_weight) // heads)
    return K, torch.empty_like(K)


@_REGISTERED[mix_project_backward].register_fake
def _(buffer, add, source_ids, grad_K, grad_V, sources, weights, gain, k_weight, v_weight, per_token, backend):
    heads, _, head_dim = grad_K.shape
    return torch.empty_like(weights), torch.empty_like(gain), k_weight.new_empty(heads, 2 * head_dim, len(gain))


@_REGISTERED[mix_heads].register_fake
def _(sources, weights, backend):
    K = sources[0].new_empty(len(weights), sources[0].shape[1] // 2)
    return K, torch.empty_like(K)


@_REGISTERED[mix_heads_backward].register_fake
def _(buffer, add, source_ids, grad_K, grad_V, sources, weights, backend):
    return torch.empty_like(weights)
