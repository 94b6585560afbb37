"""The history of one forward: what its layers have left for the later ones, and the way back for the gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from limelm.routing.normalization import normalize, scale_to_unit, scale_to_unit_backward
from limelm.routing.operations import new_carrier
from limelm.routing.source_matrix import empty_rows


class History:
    """Sources of one forward, in the order of their layers.

    The model owns it: layers are given what they read and return what they add. Eagerly, sources are slices of one
    buffer, made once; a compiler gets separate tensors. Without gradients, what no layer will read again is let go.

    Args:
        reads: for each layer the indices of the sources that it is given.
        eps: of the RMS norm of representations.
        backend: "reference" keeps sources in autograd's graph; other backends read plain tensors, and the gradients
            travel with the carrier (`limelm.routing.operations`).
        is_bounded: whether layers read some of the earlier sources only.
    """

    def __init__(self, reads: Sequence[Sequence[int]], eps: float, backend: str, is_bounded: bool):
        self.reads = reads
        self.eps = eps
        self.is_bounded = is_bounded
        self.is_reference = backend == "reference"
        self.carrier: Tensor | None = None
        self.sources: dict[int, Tensor] = {}
        self.last_reader = {source: layer for layer, sources in enumerate(reads) for source in sources}
        self._buffer: Tensor | None = None

    def append_representation(self, index: int, X: Tensor) -> Tensor:
        """Add X_index `[B, T, D]`, normalised; return X / rms(X) `[B, T, D]`, through which gradients flow too."""
        if self.is_reference or index not in self.last_reader:
            unit = normalize(X, self.eps)
            self.sources[index] = unit
            return unit
        slot = self._slot(index, 1, X.numel(), X)
        if self._is_tracked(X):
            unit, self.carrier = _KeepRepresentation.apply(X, self.carrier, slot, self.eps, index + 1)
        else:
            unit, _ = scale_to_unit(X, self.eps, _shaped(slot, X))
        self.sources[index] = unit.detach().view(1, -1) if slot is None else slot
        return unit

    def append_heads(self, index: int, heads: Tensor) -> None:
        """Add the keys and values of layer `index`, `[G, X]`."""
        if index not in self.last_reader:
            return
        if self.is_reference:
            self.sources[index] = heads
            return
        slot = self._slot(index, *heads.shape, heads)
        if self._is_tracked(heads):
            self.carrier = _KeepHeads.apply(heads, self.carrier, (index + 1) * len(heads))
        self.sources[index] = heads.detach() if slot is None else slot.copy_(heads.detach())

    def read(self, layer_idx: int) -> tuple[Tensor | None, ...]:
        """The carrier, and the sources that the layer reads."""
        return self.carrier, *(self.sources[index] for index in self.reads[layer_idx])

    def pass_layer(self, layer_idx: int, carrier: Tensor | None) -> None:
        """Take the carrier back from a layer, and let go of what no later layer reads."""
        self.carrier = carrier
        for index in [index for index in self.sources if self.last_reader.get(index, -1) <= layer_idx]:
            del self.sources[index]

    def _is_tracked(self, source: Tensor) -> bool:
        return torch.is_grad_enabled() and (source.requires_grad or self.carrier is not None)

    def _slot(self, index: int, rows: int, columns: int, like: Tensor) -> Tensor | None:
        """The rows of the buffer for source `index`, or None where sources are tensors of their own."""
        if torch.compiler.is_compiling() or (self.is_bounded and not torch.is_grad_enabled()):
            return None
        if self._buffer is None:
            self._buffer = empty_rows((max(self.last_reader) + 1) * rows, columns, like)
        # .data: a version counter of its own, as writing one slot does not change what was saved of the others.
        return self._buffer.data[index * rows : (index + 1) * rows]


def _shaped(slot: Tensor | None, like: Tensor) -> Tensor | None:
    return None if slot is None else slot.view(like.shape)


class _KeepRepresentation(torch.autograd.Function):
    """Normalise X into its slot. Its gradient is that of the layer's own uses plus that of the later readers."""

    @staticmethod
    def forward(ctx, X, carrier, slot, eps, rows):
        unit, inverse_rms = scale_to_unit(X, eps, _shaped(slot, X))
        ctx.save_for_backward(unit, inverse_rms)
        ctx.set_materialize_grads(False)
        ctx.has_carrier = carrier is not None
        return unit, new_carrier(rows, unit.view(1, -1))

    @staticmethod
    def backward(ctx, grad, grad_carrier):
        unit, inverse_rms = ctx.saved_tensors
        older = None
        if grad_carrier is not None:
            by_readers = grad_carrier[-1:].view(unit.shape)
            grad = by_readers if grad is None else by_readers + grad
            older = grad_carrier[:-1] if ctx.has_carrier else None
        grad_X = None if grad is None else scale_to_unit_backward(grad, unit, inverse_rms)
        return grad_X, older, None, None, None


class _KeepHeads(torch.autograd.Function):
    """Heads `[G, X]` join the carrier; their gradient is that of the later readers."""

    @staticmethod
    def forward(ctx, heads, carrier, rows):
        ctx.height = len(heads)
        ctx.has_carrier = carrier is not None
        ctx.set_materialize_grads(False)
        return new_carrier(rows, heads)

    @staticmethod
    def backward(ctx, grad_carrier):
        if grad_carrier is None:
            return None, None, None
        older = grad_carrier[: -ctx.height] if ctx.has_carrier else None
        return grad_carrier[-ctx.height :], older, None
