"""The routing operations as operators of PyTorch (`torch.ops.limelm.*`), one definition for eager and compiled runs.

A compiler sees each as one node; without one the functions here run directly, which spares the dispatcher. The backward
operators write to the gradient buffer that they are given, and say so: a compiler lets all of a model's readers write
into one buffer as they do without it, and copies none.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.library import custom_op

from limelm.routing.ops import chunked
from limelm.routing.ops.backends import autocast_dtype, compute_backend
from limelm.routing.ops.chunked import GradientRows
from limelm.routing.ops.source_matrix import runs


def operator(function: Callable) -> Callable:
    """The function itself; under a compiler its registered form."""
    return _REGISTERED[function] if torch.compiler.is_compiling() else function


def mix_project(
    sources: list[Tensor], weights: Tensor, projection: Tensor, per_token: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """`chunked.mix_project` by the backend of this name."""
    with _without_autocast(sources[0]):
        return chunked.mix_project(compute_backend(backend), sources, weights, projection, per_token)


def mix_project_backward(
    buffer: Tensor | None,
    add: bool,
    source_ids: list[int],
    grad_K: Tensor,
    grad_V: Tensor,
    sources: list[Tensor],
    weights: Tensor,
    projection: Tensor,
    per_token: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of weights and projection, in float32 or wider; the sources' are added to the buffer.

    Args:
        buffer: `[rows of all sources, at least as many columns as a source has]`; None where sources need no gradients.
        add: whether the buffer holds gradients of later readers; else its rows are written.
        source_ids: which of all sources were read.
    """
    with _without_autocast(sources[0]):
        gradients = _rows(buffer, add, source_ids, sources)
        return chunked.mix_project_backward(
            compute_backend(backend), grad_K, grad_V, sources, weights, projection, per_token, gradients
        )


def mix_heads(sources: list[Tensor], weights: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """`chunked.mix_heads` by the backend of this name."""
    with _without_autocast(sources[0]):
        return chunked.mix_heads(compute_backend(backend), sources, weights)


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
    """The gradient of the weights, in float32 or wider; arguments as for `mix_project_backward`."""
    with _without_autocast(sources[0]):
        gradients = _rows(buffer, add, source_ids, sources)
        return chunked.mix_heads_backward(compute_backend(backend), (grad_K, grad_V), sources, weights, gradients)


def _rows(buffer: Tensor | None, add: bool, source_ids: list[int], sources: list[Tensor]) -> GradientRows | None:
    """The rows of the gradient buffer that are these sources'."""
    if buffer is None:
        return None
    return GradientRows(buffer, runs(source_ids), sum(map(len, sources)) // len(source_ids), add)


def _without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Compute in the dtypes that are given."""
    if autocast_dtype(tensor.device) is None:
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


_MUTATED = {mix_project: (), mix_project_backward: ("buffer",), mix_heads: (), mix_heads_backward: ("buffer",)}
_REGISTERED = {
    function: custom_op(f"limelm::{function.__name__}", function, mutates_args=mutated)
    for function, mutated in _MUTATED.items()
}


@_REGISTERED[mix_project].register_fake
def _(sources, weights, projection, per_token, backend):
    heads, width, hidden_size = projection.shape
    K = projection.new_empty(heads, sources[0].shape[1] // hidden_size, width // 2)
    return K, torch.empty_like(K)


@_REGISTERED[mix_project_backward].register_fake
def _(buffer, add, source_ids, grad_K, grad_V, sources, weights, projection, per_token, backend):
    return tuple(_gradient_of(each) for each in (weights, projection))


@_REGISTERED[mix_heads].register_fake
def _(sources, weights, backend):
    K = sources[0].new_empty(len(weights), sources[0].shape[1] // 2)
    return K, torch.empty_like(K)


@_REGISTERED[mix_heads_backward].register_fake
def _(buffer, add, source_ids, grad_K, grad_V, sources, weights, backend):
    return _gradient_of(weights)


def _gradient_of(parameter: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=chunked.at_least_float32(parameter.dtype))
