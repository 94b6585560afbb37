"""The routing operations with their gradients: `mix_project` (static, dynamic) and `mix_heads` (kv).

Saved for the backward are references to the sources, the weights and the layer's parameters; everything else is made
again. The sources' gradients do not travel one by one: all of a forward's sources share one gradient buffer, to which
each reader adds in place. The *carrier* brings it from reader to reader: a tensor of the buffer's shape but without
memory of its own (one element, expanded), that each reader takes and hands on, so that autograd passes the buffer down
the chain as the carrier's gradient. It belongs to one backward; nothing is shared between forwards.

Under `torch.compile` the same functions run as registered operators, whose gradients are fresh tensors.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from limelm.routing.ops import custom_ops
from limelm.routing.ops.chunked import ComputeBackend

SECOND_GRADIENT = (
    "the gradient of a gradient through routing: the other backends compute first gradients only; "
    "build the model with routing_backend='reference'"
)


def _operator(name: str) -> Callable:
    """The function of this name in `operators`; under a compiler its registered form."""
    if torch.compiler.is_compiling():
        return getattr(torch.ops.limelm, name)
    return getattr(custom_ops, name)


def refuse_second_gradient() -> None:
    """Raise RuntimeError in a backward that is itself to be differentiated."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(SECOND_GRADIENT)


def new_carrier(rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A carrier for a gradient buffer `[rows, columns]`."""
    return like.new_zeros((), dtype=dtype).expand(rows, columns)


def pass_on(carrier: Tensor) -> Tensor:
    """Make the carrier that a reader hands on for the one that it took."""
    rows, columns = carrier.shape
    return new_carrier(rows, columns, carrier, carrier.dtype)


def requires_grad(carrier: Tensor | None) -> bool:
    """Whether any source so far needs a gradient."""
    return carrier is not None and carrier.requires_grad


def mix_project(
    carrier: Tensor | None,
    sources: Sequence[Tensor],
    source_ids: Sequence[int],
    weights: Tensor,
    gain: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    heads: int,
    per_token: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values from a mix of representations: `K_h = (gain * sum_j A[h, j] S_j) Wk_h^T`, V likewise.

    Args:
        carrier: brings the sources' gradients, or None where they need none.
        sources: `n` normalized representations, one row `[N D]` each: matrices of one or more rows, one after another.
        source_ids: which of the history's sources they are, `n` numbers.
        weights: A `[G, n]`, dense or (without gradients) sparse CSR; with `per_token` the projection P `[G n, D]` of
            the dynamic router, which reads gain times the last source.
        gain: `[D]`.
        k_weight, v_weight: `[G d, D]`.
        heads: G.
        backend: "chunked" or "triton".

    Returns:
        K and V `[G, N, d]`, and the carrier for the next reader.
    """
    plan = (tuple(source_ids), heads, per_token, backend)
    if torch.is_grad_enabled():
        used = carrier if requires_grad(carrier) else None
        K, V, passed = _MixProject.apply(used, weights, gain, k_weight, v_weight, plan, *sources)
        return K, V, carrier if used is None else passed
    K, V = _operator("mix_project")(list(sources), weights, gain, k_weight, v_weight, heads, per_token, backend)
    return K, V, carrier


def mix_heads(
    carrier: Tensor | None,
    sources: Sequence[Tensor],
    source_ids: Sequence[int],
    weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mix the heads of several layers into new ones: `K_h = sum_j sum_h' R[h, j G + h'] K_{j,h'}`, V with the same R.

    Args:
        carrier, source_ids, backend: as for `mix_project`.
        sources: the heads of `n` layers, G rows each, `[G, 2 N d]`: the keys of all N tokens, then the values.
        weights: R `[G, n G]`.

    Returns:
        K and V `[G, N d]`, and the carrier for the next reader.
    """
    if torch.is_grad_enabled():
        used = carrier if requires_grad(carrier) else None
        K, V, passed = _MixHeads.apply(used, weights, (tuple(source_ids), backend), *sources)
        return K, V, carrier if used is None else passed
    return *_operator("mix_heads")(list(sources), weights, backend), carrier


class _MixProject(torch.autograd.Function):
    @staticmethod
    def forward(ctx, carrier, weights, gain, k_weight, v_weight, plan, *sources):
        _, heads, per_token, backend = plan
        K, V = _operator("mix_project")(list(sources), weights, gain, k_weight, v_weight, heads, per_token, backend)
        ctx.save_for_backward(weights, gain, k_weight, v_weight, *sources)
        ctx.plan = plan
        ctx.carried = 0 if carrier is None else len(carrier)
        ctx.set_materialize_grads(False)
        return K, V, None if carrier is None else pass_on(carrier)

    @staticmethod
    def backward(ctx, grad_K, grad_V, grad_carrier):
        weights, gain, k_weight, v_weight, *sources = ctx.saved_tensors
        source_ids, heads, per_token, backend = ctx.plan
        refuse_second_gradient()
        if grad_K is None and grad_V is None:
            return grad_carrier, *([None] * (5 + len(sources)))
        *gradients, grad_carrier = _operator("mix_project_backward")(
            grad_K,
            grad_V,
            sources,
            weights,
            gain,
            k_weight,
            v_weight,
            grad_carrier,
            ctx.carried,
            list(source_ids),
            heads,
            per_token,
            backend,
        )
        return (grad_carrier if ctx.carried else None), *gradients, None, *([None] * len(sources))


class _MixHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, carrier, weights, plan, *sources):
        ctx.save_for_backward(weights, *sources)
        ctx.plan = plan
        ctx.carried = 0 if carrier is None else len(carrier)
        ctx.set_materialize_grads(False)
        K, V = _operator("mix_heads")(list(sources), weights, plan[1])
        return K, V, None if carrier is None else pass_on(carrier)

    @staticmethod
    def backward(ctx, grad_K, grad_V, grad_carrier):
        weights, *sources = ctx.saved_tensors
        source_ids, backend = ctx.plan
        refuse_second_gradient()
        if grad_K is None and grad_V is None:
            return grad_carrier, *([None] * (2 + len(sources)))
        grad_weights, grad_carrier = _operator("mix_heads_backward")(
            grad_K, grad_V, sources, weights, grad_carrier, ctx.carried, list(source_ids), backend
        )
        return (grad_carrier if ctx.carried else None), grad_weights, None, *([None] * len(sources))


def keep_representation(
    X: Tensor, carrier: Tensor | None, place: Tensor | None, eps: float, index: int, compute: ComputeBackend
) -> tuple[Tensor, Tensor | None]:
    """Normalize a representation as source `index` of a history.

    Args:
        X: `[B, T, D]`.
        place: `[1, B T D]` for the result, or None for new memory.

    Returns:
        X / rms(X) `[B, T, D]`, and the carrier with it.
    """
    return _KeepRepresentation.apply(X, carrier, place, eps, index, compute)


class _KeepRepresentation(torch.autograd.Function):
    """Normalize X into its place. Its gradient is that of the layer's own uses plus that of the later readers."""

    @staticmethod
    def forward(ctx, X, carrier, place, eps, index, compute: ComputeBackend):
        normalized, inverse_rms = compute.rms_normalize_forward(X, eps, None if place is None else place.view(X.shape))
        ctx.save_for_backward(normalized, inverse_rms)
        ctx.set_materialize_grads(False)
        ctx.index = index
        ctx.compute = compute
        return normalized, pass_on(carrier)

    @staticmethod
    def backward(ctx, grad, grad_carrier):
        normalized, inverse_rms = ctx.saved_tensors
        refuse_second_gradient()
        if grad_carrier is not None:
            by_readers = grad_carrier[ctx.index].view(normalized.shape)
            grad = by_readers if grad is None else by_readers + grad
        grad_X = None if grad is None else ctx.compute.rms_normalize_backward(grad, normalized, inverse_rms)
        return grad_X, grad_carrier, None, None, None, None


def keep_heads(
    K: Tensor, V: Tensor, carrier: Tensor | None, place: Tensor | None, index: int
) -> tuple[Tensor, Tensor | None]:
    """Put the keys and values of layer `index` together, where a history can hold them.

    Args:
        K, V: `[B, T, G, d]`.
        place: rows `[G, 2 B T d]` for the result, or None for new ones.

    Returns:
        The heads `[G, 2 B T d]`, keys before values, a plain tensor, and the carrier with them.

    Raises:
        ValueError: where gradients are needed and there is no carrier to bring them.
    """
    if torch.is_grad_enabled() and (K.requires_grad or V.requires_grad or requires_grad(carrier)):
        if carrier is None:
            raise ValueError("keys and values need gradients, and there is no carrier to bring them: see History")
        return _KeepHeads.apply(K, V, carrier, place, index)
    return _together(K, V, place), carrier


def _together(K: Tensor, V: Tensor, place: Tensor | None) -> Tensor:
    """`[B, T, G, d]` twice to `[G, 2 B T d]`."""
    K, V = (states.flatten(0, 1).transpose(0, 1) for states in (K, V))  # [G, N, d]
    if place is None:
        return torch.stack((K, V), dim=1).flatten(1)
    parts = place.data.view(len(K), 2, K.shape[1], -1)  # .data: making it again in a recomputation changes nothing
    parts[:, 0] = K
    parts[:, 1] = V
    return place


class _KeepHeads(torch.autograd.Function):
    """The heads join the carrier; their gradient is that of all readers, the layer itself among them."""

    @staticmethod
    def forward(ctx, K, V, carrier, place, index):
        ctx.shape = K.shape
        ctx.index = index
        ctx.set_materialize_grads(False)
        kept = _together(K.detach(), V.detach(), place).detach()
        ctx.mark_non_differentiable(kept)
        return kept, pass_on(carrier)

    @staticmethod
    def backward(ctx, _, grad_carrier):
        refuse_second_gradient()
        if grad_carrier is None:
            return (None,) * 5
        heads, head_dim = ctx.shape[-2:]
        own = grad_carrier[ctx.index * heads : (ctx.index + 1) * heads].view(heads, 2, -1, head_dim)
        grad_K, grad_V = (own[:, part].transpose(0, 1).reshape(ctx.shape) for part in (0, 1))
        return grad_K, grad_V, grad_carrier, None, None
