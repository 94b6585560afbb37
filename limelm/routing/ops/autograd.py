"""The routing operations with their gradients: `route_representations` (static, dynamic) and `route_heads` (kv).

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
    """What a reader returns for the carrier that it took."""
    rows, columns = carrier.shape
    return new_carrier(rows, columns, carrier, carrier.dtype)


def requires_grad(carrier: Tensor | None) -> bool:
    """Whether any source so far needs a gradient."""
    return carrier is not None and carrier.requires_grad


def route_representations(
    carrier: Tensor | None,
    sources: Sequence[Tensor],
    slots: Sequence[int],
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
        sources: `n` normalised representations, one row `[N D]` each: matrices of one or more rows, one after another.
        slots: which rows of the carrier are theirs, `n` numbers.
        weights: A `[G, n]`, dense or (without gradients) sparse CSR; with `per_token` the projection P `[G n, D]` of
            the dynamic router, which reads gain times the last source.
        gain: `[D]`.
        k_weight, v_weight: `[G d, D]`.
        heads: G.
        backend: "chunked" or "triton".

    Returns:
        K and V `[G, N, d]`, and the carrier for the next reader.
    """
    plan = (tuple(slots), heads, per_token, backend)
    if torch.is_grad_enabled():
        used = carrier if requires_grad(carrier) else None
        K, V, passed = _RouteRepresentations.apply(used, weights, gain, k_weight, v_weight, plan, *sources)
        return K, V, carrier if used is None else passed
    K, V = _operator("mix_project")(list(sources), weights, gain, k_weight, v_weight, heads, per_token, backend)
    return K, V, carrier


def route_heads(
    carrier: Tensor | None,
    sources: Sequence[Tensor],
    slots: Sequence[int],
    weights: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mix the heads of several layers into new ones: `K_h = sum_j sum_h' R[h, j G + h'] K_{j,h'}`, V with the same R.

    Args:
        carrier, slots, backend: as for `route_representations`.
        sources: the heads of `n` layers, G rows each, `[G, 2 N d]`: the keys of all N tokens, then the values.
        weights: R `[G, n G]`.

    Returns:
        K and V `[G, N d]`, and the carrier for the next reader.
    """
    if torch.is_grad_enabled():
        used = carrier if requires_grad(carrier) else None
        K, V, passed = _RouteHeads.apply(used, weights, (tuple(slots), backend), *sources)
        return K, V, carrier if used is None else passed
    return *_operator("mix_heads")(list(sources), weights, backend), carrier


class _RouteRepresentations(torch.autograd.Function):
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
        slots, heads, per_token, backend = ctx.plan
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
            list(slots),
            heads,
            per_token,
            backend,
        )
        return (grad_carrier if ctx.carried else None), *gradients, None, *([None] * len(sources))


class _RouteHeads(torch.autograd.Function):
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
        slots, backend = ctx.plan
        refuse_second_gradient()
        if grad_K is None and grad_V is None:
            return grad_carrier, *([None] * (2 + len(sources)))
        grad_weights, grad_carrier = _operator("mix_heads_backward")(
            grad_K, grad_V, sources, weights, grad_carrier, ctx.carried, list(slots), backend
        )
        return (grad_carrier if ctx.carried else None), grad_weights, None, *([None] * len(sources))
