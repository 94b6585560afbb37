"""The routing operations with their gradients: `mix_project` (static, dynamic) and `mix_heads` (kv).

Saved for the backward are references to the sources, the weights and the layer's parameters; everything else is made
again. The sources' gradients do not travel one by one: all of a forward's sources share one gradient buffer, to which
each reader adds in place. The *carrier* brings it from reader to reader: a tensor of the buffer's shape but without
memory of its own (one element, expanded), that each reader takes and hands on, so that autograd passes the buffer down
the chain as the carrier's gradient. It belongs to one backward; nothing is shared between forwards.

The products are operators (`limelm.routing.ops.operators`), the same with and without `torch.compile`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from limelm.routing.ops import chunked, operators
from limelm.routing.ops.backends import compute_backend
from limelm.routing.ops.chunked import ComputeBackend
from limelm.routing.ops.operators import operator
from limelm.routing.ops.source_matrix import ROW_PADDING, as_one

FEW_COLUMNS = 1024  # up to which kv mixes keys and values at once, and they may share memory
SECOND_GRADIENT = (
    "the gradient of a gradient through routing: the other backends compute first gradients only; "
    "build the model with routing_backend='reference'"
)


def refuse_second_gradient(message: str = SECOND_GRADIENT) -> None:
    """Raise RuntimeError in a backward that is itself to be differentiated."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(message)


def new_carrier(rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A carrier for a gradient buffer of rows of `columns` numbers, which end in some that nobody uses."""
    return like.new_zeros((), dtype=dtype).expand(rows, columns + ROW_PADDING)


def pass_on(carrier: Tensor) -> Tensor:
    """Make the carrier that a reader hands on for the one that it took."""
    return carrier.new_zeros(()).expand(carrier.shape)


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
    plan = (tuple(source_ids), per_token, backend)
    if torch.is_grad_enabled():
        used = carrier if requires_grad(carrier) else None
        K, V, passed = _MixProject.apply(used, weights, gain, k_weight, v_weight, plan, *sources)
        return K, V, carrier if used is None else passed
    if _is_known(sources[0].shape[1] // gain.shape[0] <= 2 * k_weight.shape[0] // heads):
        K, V = _mix_project_few(sources, weights, gain, (k_weight, v_weight), heads, per_token, backend)
        return K, V, carrier
    K, V = operator(operators.mix_project)(list(sources), weights, gain, k_weight, v_weight, per_token, backend)
    return K, V, carrier


def _mix_project_few(
    sources: Sequence[Tensor],
    weights: Tensor,
    gain: Tensor,
    projections: Sequence[Tensor],
    heads: int,
    per_token: bool,
    backend: str,
) -> list[Tensor]:
    """K and V of few tokens: the gain times their mix is less work than the gain times W."""
    S, hidden_size = as_one(sources), gain.shape[0]
    routing = operators.fold_into_routing(weights, gain, per_token, S.dtype)
    Z = chunked.mix(compute_backend(backend), S, routing, heads, hidden_size, per_token) * gain.to(S.dtype)
    return [torch.bmm(Z, weight.to(S.dtype).view(heads, -1, hidden_size).mT) for weight in projections]


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
        weights: R `[S G, n G]`, S sets of weights.

    Returns:
        K and V `[S G, N d]`, and the carrier for the next reader.
    """
    if torch.is_grad_enabled():
        used = carrier if requires_grad(carrier) else None
        K, V, passed = _MixHeads.apply(used, weights, (tuple(source_ids), backend), *sources)
        return K, V, carrier if used is None else passed
    if _is_known(sources[0].shape[1] <= FEW_COLUMNS):
        S = as_one(sources)
        K, V = compute_backend(backend).mix_rows(weights.to(S.dtype), S).chunk(2, dim=1)
    else:
        K, V = operator(operators.mix_heads)(list(sources), weights, backend)
    return K, V, carrier


def _is_known(condition: bool) -> bool:
    """Whether a condition on sizes holds; a compiler that leaves sizes open is not to bind them by asking."""
    return statically_known_true(condition) if torch.compiler.is_compiling() else condition


class _MixProject(torch.autograd.Function):
    @staticmethod
    def forward(ctx, carrier, weights, gain, k_weight, v_weight, plan, *sources):
        ctx.save_for_backward(weights, gain, k_weight, v_weight, *sources)
        ctx.plan = plan
        ctx.carried = None if carrier is None else carrier.shape
        ctx.set_materialize_grads(False)
        K, V = operator(operators.mix_project)(list(sources), weights, gain, k_weight, v_weight, *plan[1:])
        return K, V, None if carrier is None else pass_on(carrier)

    @staticmethod
    def backward(ctx, grad_K, grad_V, grad_carrier):
        weights, gain, k_weight, v_weight, *sources = ctx.saved_tensors
        source_ids, *plan = ctx.plan
        refuse_second_gradient()
        if grad_K is None and grad_V is None:
            return grad_carrier, *([None] * (5 + len(sources)))
        grads = (grad.to(sources[0].dtype) for grad in _both(grad_K, grad_V))
        buffer, add = gradient_buffer(grad_carrier, ctx.carried, sum(map(len, sources)), sources[0])
        grad_weights, grad_gain, grad_W = operator(operators.mix_project_backward)(
            buffer, add, list(source_ids), *grads, sources, weights, gain, k_weight, v_weight, *plan
        )
        projections = (part.flatten(0, 1) for part in grad_W.chunk(2, dim=1))
        return buffer, grad_weights, grad_gain, *projections, None, *([None] * len(sources))


def _both(grad_K: Tensor | None, grad_V: Tensor | None) -> tuple[Tensor, Tensor]:
    """Zeros for the one gradient that is not there."""
    assert grad_K is not None or grad_V is not None
    if grad_K is None:
        grad_K = torch.zeros_like(grad_V)  # type: ignore[arg-type]
    return grad_K, torch.zeros_like(grad_K) if grad_V is None else grad_V


def gradient_buffer(
    buffer: Tensor | None, shape: torch.Size | None, rows: int, like: Tensor
) -> tuple[Tensor | None, bool]:
    """The gradient buffer, and whether to add to it: a fresh one where this reader is the last.

    Args:
        buffer: as later readers left it.
        shape: its shape; None where the sources need no gradients.
        rows: how many of its rows this reader writes.
        like: a tensor of its dtype and device.
    """
    if shape is None or buffer is not None:
        return buffer, True
    if shape[0] == rows:
        return like.new_empty(shape), False
    return like.new_zeros(shape), True


class _MixHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, carrier, weights, plan, *sources):
        ctx.save_for_backward(weights, *sources)
        ctx.plan = plan
        ctx.carried = None if carrier is None else carrier.shape
        ctx.set_materialize_grads(False)
        K, V = operator(operators.mix_heads)(list(sources), weights, plan[1])
        return K, V, None if carrier is None else pass_on(carrier)

    @staticmethod
    def backward(ctx, grad_K, grad_V, grad_carrier):
        weights, *sources = ctx.saved_tensors
        source_ids, backend = ctx.plan
        refuse_second_gradient()
        if grad_K is None and grad_V is None:
            return grad_carrier, *([None] * (2 + len(sources)))
        dtype = sources[0].dtype
        buffer, add = gradient_buffer(grad_carrier, ctx.carried, sum(map(len, sources)), sources[0])
        grads = (None if grad is None else grad.to(dtype) for grad in (grad_K, grad_V))
        grad_weights = operator(operators.mix_heads_backward)(
            buffer, add, list(source_ids), *grads, sources, weights, backend
        )
        return buffer, grad_weights, None, *([None] * len(sources))


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
            by_readers = grad_carrier[ctx.index, : normalized.numel()].view(normalized.shape)
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
    K, V = K.flatten(0, 1).transpose(0, 1), V.flatten(0, 1).transpose(0, 1)  # [G, N, d]
    if place is None:
        return torch.stack((K, V), dim=1).flatten(1)
    # .data: making it again in a recomputation changes nothing
    torch.stack((K, V), dim=1, out=place.data.view(K.shape[0], 2, K.shape[1], -1))
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
        own = grad_carrier[ctx.index * heads : (ctx.index + 1) * heads, : 2 * ctx.shape.numel() // heads]
        own = own.view(heads, 2, -1, head_dim)
        grad_K, grad_V = (own[:, part].transpose(0, 1).reshape(ctx.shape) for part in (0, 1))
        return grad_K, grad_V, grad_carrier, None, None
