"""Routing on tensors, without autograd: forward and backward, and the same registered with `torch.library`.

Run eagerly, a backward adds to the gradient buffer it is given. The operators registered as `torch.ops.limelm.*` are
free of side effects, as compilers require: theirs return a new buffer.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.library import custom_op

from limelm.routing.ops import chunked
from limelm.routing.ops.backends import autocast_dtype, compute_backend
from limelm.routing.ops.chunked import GradientRows
from limelm.routing.ops.source_matrix import empty_rows, runs


def mix_project(
    sources: list[Tensor],
    weights: Tensor,
    gain: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    heads: int,
    per_token: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """K and V `[G, N, d]`; arguments as in `operations.mix_project`."""
    dtype = sources[0].dtype
    with _without_autocast(sources[0]):
        if per_token:
            weights = weights * gain
        by_head = _by_head(k_weight, v_weight, heads)
        if sources[0].shape[1] // len(gain) <= 2 * by_head[0].shape[1]:
            # The gain times the mix of few tokens is less work than the gain times W.
            S = sources[0] if len(sources) == 1 else torch.cat(sources)
            Z = chunked.mix(compute_backend(backend), S, weights.to(dtype), heads, len(gain), per_token) * gain.to(
                dtype
            )
            K, V = (torch.bmm(Z, weight.to(dtype).transpose(1, 2)) for weight in by_head)
            return K, V
        folded = (gain * torch.cat(by_head, dim=1)).to(dtype)
        return chunked.mix_project(compute_backend(backend), sources, weights.to(dtype), folded, per_token)


def mix_project_backward(
    grad_K: Tensor | None,
    grad_V: Tensor | None,
    sources: list[Tensor],
    weights: Tensor,
    gain: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    grad_carrier: Tensor | None,
    carried: int,
    source_ids: Sequence[int],
    heads: int,
    per_token: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of weights, gain, k_weight and v_weight, and the gradient buffer with this reader's part added.

    Args:
        grad_carrier: the buffer as later readers left it; None where this reader is the last.
        carried: how many rows the buffer has; 0 where the sources need no gradients.
    """
    dtype = sources[0].dtype
    with _without_autocast(sources[0]):
        gradients = gradient_rows(grad_carrier, carried, source_ids, sources)
        routing = weights * gain if per_token else weights
        W = torch.cat(_by_head(k_weight, v_weight, heads), dim=1)
        grad_K, grad_V = _both(grad_K, grad_V)
        grad_weights, grad_W = chunked.mix_project_backward(
            compute_backend(backend),
            grad_K.to(dtype),
            grad_V.to(dtype),
            sources,
            routing.to(dtype),
            (gain * W).to(dtype),
            per_token,
            gradients,
        )
        grad_k, grad_v = (part.flatten(0, 1) for part in (grad_W * gain).chunk(2, dim=1))
        grad_gain = (grad_W * W).sum(dim=(0, 1))
        if per_token:
            grad_gain = grad_gain + (grad_weights * weights).sum(dim=0)
            grad_weights = grad_weights * gain
    return (
        grad_weights.to(weights.dtype),
        grad_gain.to(gain.dtype),
        grad_k.to(k_weight.dtype),
        grad_v.to(v_weight.dtype),
        None if gradients is None else gradients.buffer,
    )


def mix_heads(sources: list[Tensor], weights: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """K and V `[G, N d]`; arguments as in `operations.mix_heads`."""
    with _without_autocast(sources[0]):
        return chunked.mix_heads(compute_backend(backend), sources, weights.to(sources[0].dtype))


def mix_heads_backward(
    grad_K: Tensor | None,
    grad_V: Tensor | None,
    sources: list[Tensor],
    weights: Tensor,
    grad_carrier: Tensor | None,
    carried: int,
    source_ids: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor | None]:
    """The gradient of the weights, and the gradient buffer as in `mix_project_backward`."""
    dtype = sources[0].dtype
    with _without_autocast(sources[0]):
        gradients = gradient_rows(grad_carrier, carried, source_ids, sources)
        grads = [None if grad is None else grad.to(dtype) for grad in (grad_K, grad_V)]
        grad_weights = chunked.mix_heads_backward(
            compute_backend(backend), grads, sources, weights.to(dtype), gradients
        )
    return grad_weights.to(weights.dtype), None if gradients is None else gradients.buffer


def _by_head(k_weight: Tensor, v_weight: Tensor, heads: int) -> list[Tensor]:
    """The projections' weights `[G d, D]` as `[G, d, D]`."""
    return [weight.unflatten(0, (heads, -1)) for weight in (k_weight, v_weight)]


def _both(grad_K: Tensor | None, grad_V: Tensor | None) -> tuple[Tensor, Tensor]:
    """Zeros for the one gradient that is not there."""
    assert grad_K is not None or grad_V is not None
    if grad_K is None:
        grad_K = torch.zeros_like(grad_V)  # type: ignore[arg-type]
    return grad_K, torch.zeros_like(grad_K) if grad_V is None else grad_V


def _without_autocast(tensor: Tensor) -> AbstractContextManager:
    """ComputeBackend in the dtypes that they are given."""
    if autocast_dtype(tensor.device) is None:
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def gradient_rows(
    buffer: Tensor | None, carried: int, source_ids: Sequence[int], sources: Sequence[Tensor]
) -> GradientRows | None:
    """The rows of the gradient buffer that are the sources'; a fresh buffer where this reader is the last."""
    if carried == 0:
        return None
    rows, columns = sum(map(len, sources)), sources[0].shape[1]
    covers_all = rows == carried
    add = buffer is not None or not covers_all
    if buffer is None:
        buffer = empty_rows(carried, columns, sources[0], sources[0].dtype)
        if not covers_all:
            buffer.zero_()
    return GradientRows(buffer, runs(source_ids), rows // len(source_ids), add)


def _fresh(buffer: Tensor | None, carried: int, like: Tensor) -> Tensor:
    """A buffer that a registered backward may write to: never one that it was given."""
    if buffer is not None:
        return buffer.clone(memory_format=torch.contiguous_format)
    return like.new_zeros(carried, like.shape[1])


@custom_op("limelm::mix_project", mutates_args=())
def _mix_project(
    sources: list[Tensor],
    weights: Tensor,
    gain: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    heads: int,
    per_token: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return mix_project(sources, weights, gain, k_weight, v_weight, heads, per_token, backend)


@_mix_project.register_fake
def _(sources, weights, gain, k_weight, v_weight, heads, per_token, backend):
    tokens = sources[0].shape[1] // gain.shape[0]
    K = sources[0].new_empty(heads, tokens, k_weight.shape[0] // heads)
    return K, torch.empty_like(K)


@custom_op("limelm::mix_project_backward", mutates_args=())
def _mix_project_backward(
    grad_K: Tensor | None,
    grad_V: Tensor | None,
    sources: list[Tensor],
    weights: Tensor,
    gain: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    grad_carrier: Tensor | None,
    carried: int,
    source_ids: list[int],
    heads: int,
    per_token: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    buffer = _fresh(grad_carrier, carried, sources[0])
    grad_weights, grad_gain, grad_k, grad_v, _ = mix_project_backward(
        grad_K,
        grad_V,
        sources,
        weights,
        gain,
        k_weight,
        v_weight,
        buffer,
        carried,
        source_ids,
        heads,
        per_token,
        backend,
    )
    return grad_weights, grad_gain, grad_k.clone(), grad_v.clone(), buffer  # of one head they are parts of one tensor


@_mix_project_backward.register_fake
def _(grad_K, grad_V, sources, weights, gain, k_weight, v_weight, grad_carrier, carried, *_):
    parameters = (weights, gain, k_weight, v_weight)
    return *(torch.empty_like(p) for p in parameters), sources[0].new_empty(carried, sources[0].shape[1])


@custom_op("limelm::mix_heads", mutates_args=())
def _mix_heads(sources: list[Tensor], weights: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return mix_heads(sources, weights, backend)


@_mix_heads.register_fake
def _(sources, weights, backend):
    K = sources[0].new_empty(weights.shape[0], sources[0].shape[1] // 2)
    return K, torch.empty_like(K)


@custom_op("limelm::mix_heads_backward", mutates_args=())
def _mix_heads_backward(
    grad_K: Tensor | None,
    grad_V: Tensor | None,
    sources: list[Tensor],
    weights: Tensor,
    grad_carrier: Tensor | None,
    carried: int,
    source_ids: list[int],
    backend: str,
) -> tuple[Tensor, Tensor]:
    buffer = _fresh(grad_carrier, carried, sources[0])
    grad_weights, _ = mix_heads_backward(grad_K, grad_V, sources, weights, buffer, carried, source_ids, backend)
    return grad_weights, buffer


@_mix_heads_backward.register_fake
def _(grad_K, grad_V, sources, weights, grad_carrier, carried, *_):
    return torch.empty_like(weights), sources[0].new_empty(carried, sources[0].shape[1])
