"""The history of one forward: what its layers have left for the later ones, and the way back for the gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from limelm.routing.ops.autograd import new_carrier, pass_on, refuse_second_gradient, requires_grad
from limelm.routing.ops.backends import autocast_dtype, products_of
from limelm.routing.ops.chunked import Products
from limelm.routing.ops.rms_norm import normalize
from limelm.routing.ops.source_matrix import empty_rows, runs


class ReadPlan:
    """Which layer reads which sources; made once per model.

    Attributes:
        reads: for each layer the indices of the sources that it is given.
        blocks: for each layer the runs of them, [first, last).
        expiring: for each layer the sources that no later one reads.
        num_sources: up to which source any layer reads.
        is_bounded: whether layers read some of the earlier sources only.
    """

    def __init__(self, reads: Sequence[Sequence[int]], is_bounded: bool):
        self.num_sources = max((source + 1 for sources in reads for source in sources), default=0)
        last_reader = {source: source for source in range(self.num_sources)}  # a layer's own, where no later one reads
        last_reader |= {source: layer for layer, sources in enumerate(reads) for source in sources}
        self.reads = reads
        self.blocks = [[(slot, slot + last - first) for first, last, slot in runs(sources)] for sources in reads]
        self.expiring = [[s for s, reader in last_reader.items() if reader == layer] for layer in range(len(reads))]
        self.is_bounded = is_bounded


class History:
    """Sources of one forward, in the order of their layers.

    The model owns it: layers are given what they read and return what they add. Eagerly, sources are slices of one
    buffer, made once; a compiler gets separate tensors. Without gradients, what no layer will read again is let go.

    Args:
        plan: which layer reads what.
        eps: of the RMS norm of representations.
        backend: "reference" keeps sources in autograd's graph; other backends read plain tensors, and the gradients
            travel with the carrier (`limelm.routing.ops.autograd`).
    """

    def __init__(self, plan: ReadPlan, eps: float, backend: str):
        self.plan = plan
        self.eps = eps
        self.is_reference = backend == "reference"
        self.products = products_of(backend)
        self.carrier: Tensor | None = None
        self.sources: dict[int, Tensor] = {}
        self._buffer: Tensor | None = None
        self._height = 0  # rows of a source; 0 before the first

    def append_representation(self, index: int, X: Tensor) -> Tensor:
        """Add X_index `[B, T, D]`, normalised; return X / rms(X) `[B, T, D]`, through which gradients flow too."""
        if self.is_reference or index >= self.plan.num_sources:
            unit = normalize(X, self.eps)
            self.sources[index] = unit
            return unit
        self._begin(1, X.numel(), X)
        slot = self._slot(index)
        if torch.is_grad_enabled() and (X.requires_grad or requires_grad(self.carrier)):
            unit, self.carrier = _KeepRepresentation.apply(X, self.carrier, slot, self.eps, index, self.products)
        else:
            unit = normalize(X, self.eps)
            unit = unit if slot is None else slot.view(X.shape).copy_(unit)
        if slot is None:
            self.sources[index] = unit.detach().view(1, -1).to(_source_dtype(X))
        return unit

    def make_room_for_heads(self, index: int, heads: int, columns: int, like: Tensor) -> None:
        """Before layer `index`, which makes keys and values `[G, X]`: have rows for them where there is a buffer."""
        if index < self.plan.num_sources and not self.is_reference:
            self._begin(heads, columns, like)

    def append_heads(self, index: int, heads: Tensor) -> None:
        """Add the keys and values of layer `index`, `[G, X]`."""
        slot = self._slot(index)
        if slot is None:
            self.sources[index] = heads
        elif not _is_same_memory(heads, slot):  # the layer was given a copy of its rows
            slot.copy_(heads)

    def read(self, layer_idx: int) -> tuple[Tensor | None, ...]:
        """The carrier, and the sources that the layer reads: blocks of the buffer, or one tensor each.

        Where a layer makes its own source, blocks end with the rows to put it in; of separate tensors it is missing.
        """
        if self._buffer is None:
            return self.carrier, *(self.sources[index] for index in self.plan.reads[layer_idx] if index in self.sources)
        return self.carrier, *(self._rows(first, last) for first, last in self.plan.blocks[layer_idx])

    def pass_layer(self, layer_idx: int, carrier: Tensor | None) -> None:
        """Take the carrier back from a layer, and let go of what no later layer reads."""
        self.carrier = carrier
        for index in self.plan.expiring[layer_idx]:
            self.sources.pop(index, None)

    def _begin(self, height: int, columns: int, like: Tensor) -> None:
        """With the first source: make the carrier, and the buffer where there is one."""
        if self._height:
            return
        self._height = height
        rows, dtype = self.plan.num_sources * height, _source_dtype(like)
        if torch.is_grad_enabled():
            self.carrier = new_carrier(rows, columns, like, dtype)
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or not self.plan.is_bounded):
            self._buffer = empty_rows(rows, columns, like, dtype)

    def _rows(self, first: int, last: int) -> Tensor:
        """The buffer's rows of sources [first, last)."""
        # .data: a version counter of its own, as writing one source does not change what was saved of the others.
        assert self._buffer is not None
        return self._buffer.data[first * self._height : last * self._height]

    def _slot(self, index: int) -> Tensor | None:
        """The rows of the buffer for source `index`, or None where sources are tensors of their own."""
        return None if self._buffer is None else self._rows(index, index + 1)


def _source_dtype(like: Tensor) -> torch.dtype:
    """What sources are kept in: under autocast what matrix products take, else what they come in."""
    return autocast_dtype(like.device) or like.dtype


def _is_same_memory(tensor: Tensor, other: Tensor) -> bool:
    return (
        tensor.untyped_storage()._cdata == other.untyped_storage()._cdata
        and tensor.storage_offset() == other.storage_offset()
    )


class _KeepRepresentation(torch.autograd.Function):
    """Normalise X into its slot. Its gradient is that of the layer's own uses plus that of the later readers."""

    @staticmethod
    def forward(ctx, X, carrier, slot, eps, index, products: Products):
        unit, inverse_rms = products.scale_to_unit(X, eps, None if slot is None else slot.view(X.shape))
        ctx.save_for_backward(unit, inverse_rms)
        ctx.set_materialize_grads(False)
        ctx.index = index
        ctx.products = products
        return unit, pass_on(carrier)

    @staticmethod
    def backward(ctx, grad, grad_carrier):
        unit, inverse_rms = ctx.saved_tensors
        refuse_second_gradient()
        if grad_carrier is not None:
            by_readers = grad_carrier[ctx.index].view(unit.shape)
            grad = by_readers if grad is None else by_readers + grad
        grad_X = None if grad is None else ctx.products.scale_to_unit_backward(grad, unit, inverse_rms)
        return grad_X, grad_carrier, None, None, None, None


def keep_heads(
    K: Tensor, V: Tensor, heads: int, carrier: Tensor | None, place: Tensor | None, index: int
) -> tuple[Tensor, Tensor | None]:
    """Put the keys and values of layer `index` together, where a history can hold them.

    Args:
        K, V: `[B, T, G d]`.
        heads: G.
        place: rows `[G, 2 B T d]` for the result, or None for new ones.

    Returns:
        The heads `[G, 2 B T d]`, keys before values, a plain tensor, and the carrier with them.

    Raises:
        ValueError: where gradients are needed and there is no carrier to bring them.
    """
    if torch.is_grad_enabled() and (K.requires_grad or V.requires_grad or requires_grad(carrier)):
        if carrier is None:
            raise ValueError("keys and values need gradients, and there is no carrier to bring them: see History")
        return _KeepHeads.apply(K, V, carrier, heads, place, index)
    return _together(K, V, heads, place), carrier


def _together(K: Tensor, V: Tensor, heads: int, place: Tensor | None) -> Tensor:
    """`[B, T, G d]` twice to `[G, 2 B T d]`."""
    K, V = (states.reshape(-1, heads, states.shape[-1] // heads).transpose(0, 1) for states in (K, V))  # [G, N, d]
    if place is None:
        return torch.stack((K, V), dim=1).flatten(1)
    parts = place.data.view(heads, 2, K.shape[1], -1)  # .data: making it again in a recomputation changes nothing
    parts[:, 0] = K
    parts[:, 1] = V
    return place


class _KeepHeads(torch.autograd.Function):
    """The heads join the carrier; their gradient is that of all readers, the layer itself among them."""

    @staticmethod
    def forward(ctx, K, V, carrier, heads, place, index):
        ctx.shape = K.shape
        ctx.heads = heads
        ctx.index = index
        ctx.set_materialize_grads(False)
        kept = _together(K.detach(), V.detach(), heads, place).detach()
        ctx.mark_non_differentiable(kept)
        return kept, pass_on(carrier)

    @staticmethod
    def backward(ctx, _, grad_carrier):
        refuse_second_gradient()
        if grad_carrier is None:
            return (None,) * 6
        rows = grad_carrier[ctx.index * ctx.heads : (ctx.index + 1) * ctx.heads]
        own = rows.view(ctx.heads, 2, -1, ctx.shape[-1] // ctx.heads)
        grad_K, grad_V = (own[:, part].transpose(0, 1).reshape(ctx.shape) for part in (0, 1))
        return grad_K, grad_V, grad_carrier, None, None, None
