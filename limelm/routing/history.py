"""The history of one forward: what its layers have left for the later ones, and the way back for the gradients."""

import torch
from torch import Tensor, nn

from limelm.routing.ops.autograd import keep_representation, new_carrier, requires_grad
from limelm.routing.ops.backends import autocast_dtype, compute_backend, resolve_backend
from limelm.routing.ops.rms_norm import rms_normalize
from limelm.routing.ops.source_matrix import empty_rows
from limelm.routing.sources import ReadPlan


class History:
    """Sources of one forward, in the order of their layers.

    The model owns it: layers are given what they read and return what they add. Eagerly, sources are slices of one
    buffer, made once; a compiler gets separate tensors. Where sources are bounded and there are no gradients, what no
    layer will read again is let go.

    A layer's turn is `open`, which gives what it reads, and `close`, which takes what it leaves. Routers in a model of
    one's own do both in `keys_values`.

    Args:
        plan: which layer reads what; or the routers from `make_routers`, whose plan it is then.
    """

    def __init__(self, plan: ReadPlan | nn.Module):
        self.plan: ReadPlan = plan if isinstance(plan, ReadPlan) else plan.plan  # type: ignore[assignment]
        self.carrier: Tensor | None = None
        self.sources: dict[int, Tensor] = {}
        self._backend: str | None = None
        self._buffer: Tensor | None = None
        self._rows_each = 0  # rows of a source; 0 before the first
        self._next = 0

    def open(self, index: int, X: Tensor, eps: float) -> tuple[Tensor | None, ...]:
        """Begin layer `index`, which is given X_index.

        Args:
            X: `[B, T, D]`.
            eps: of the RMS norm, where representations are mixed.

        Returns:
            X / rms(X) `[B, T, D]`, through which gradients flow too, or None where the layer is to normalize X itself;
            the carrier; and the sources that the layer reads: blocks of the buffer, or one tensor each. Where a layer
            makes its own source, blocks end with the rows to put it in; of separate tensors it is missing.

        Raises:
            RuntimeError: for a layer whose turn it is not, as one that is run a second time for its backward.
        """
        if index != self._next:
            raise RuntimeError(
                f"layer {index} begins, but it is layer {self._next}'s turn: a forward has a history of its own, and "
                "activation checkpointing goes between history.open and history.close"
            )
        if self._backend is None:
            self._backend = resolve_backend(self.plan.backend, X.device, self.plan.has_fast_path)
        normalized = None
        if self.plan.mixes_representations:
            normalized = self._append_representation(index, X, eps)
        elif self._backend != "reference" and index < self.plan.num_sources and self.plan.rows:
            self._begin(self.plan.rows, self.plan.columns * X[..., 0].numel(), X)
        return normalized, *self._read(index)

    def close(self, index: int, carrier: Tensor | None, source: Tensor | None = None) -> None:
        """End layer `index`: take the carrier back, and its source, and let go of what no later layer reads.

        Args:
            source: what the layer leaves, `[r, N c]` for the plan's rows and columns, or a tensor of its own without
                them; None where that is its input, or nothing.
        """
        if index != self._next:
            raise RuntimeError(f"layer {index} ends, but it is layer {self._next}'s turn")
        self._next = index + 1
        self.carrier = carrier
        if source is not None and index < self.plan.num_sources:
            self._append_source(index, source)
        for expired in self.plan.expiring[index]:
            self.sources.pop(expired, None)

    def _append_representation(self, index: int, X: Tensor, eps: float) -> Tensor:
        if self._backend == "reference" or index >= self.plan.num_sources:
            normalized = rms_normalize(X, eps)
            self.sources[index] = normalized
            return normalized
        self._begin(self.plan.rows, self.plan.columns * X[..., 0].numel(), X)
        place = self._place(index)
        if torch.is_grad_enabled() and (X.requires_grad or requires_grad(self.carrier)):
            compute = compute_backend(self._backend or "auto")
            self._eps = eps  # Dynamo loses track of a dynamic float that goes through arguments only
            normalized, self.carrier = keep_representation(X, self.carrier, place, self._eps, index, compute)
        else:
            normalized = rms_normalize(X, eps, None if place is None else place.view(X.shape))
        if place is None:
            self.sources[index] = normalized.detach().view(1, -1).to(_source_dtype(X))
        return normalized

    def _append_source(self, index: int, source: Tensor) -> None:
        place = self._place(index)
        if place is None:
            self.sources[index] = source
        elif not _is_same_memory(source, place):  # the layer was given a copy of its rows
            place.copy_(source)

    def _read(self, index: int) -> tuple[Tensor | None, ...]:
        if self._buffer is None:
            return self.carrier, *(self.sources[each] for each in self.plan.reads[index] if each in self.sources)
        return self.carrier, *(self._rows(first, last) for first, last in self.plan.blocks[index])

    def _begin(self, rows_each: int, columns: int, like: Tensor) -> None:
        """Make the buffer with the first source, and the carrier with the first that may need gradients."""
        needs_carrier = torch.is_grad_enabled() and self.carrier is None
        if self._rows_each and not needs_carrier:
            return
        rows, dtype = self.plan.num_sources * rows_each, _source_dtype(like)
        if needs_carrier:
            self.carrier = new_carrier(rows, columns, like, dtype)
        if self._rows_each:
            return
        self._rows_each = rows_each
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or not self.plan.is_bounded):
            self._buffer = empty_rows(rows, columns, like, dtype)

    def _rows(self, first: int, last: int) -> Tensor:
        """The buffer's rows of sources [first, last)."""
        # .data: a version counter of its own, as writing one source does not change what was saved of the others.
        assert self._buffer is not None
        return self._buffer.data[first * self._rows_each : last * self._rows_each]

    def _place(self, index: int) -> Tensor | None:
        """The rows of the buffer for source `index`, or None where sources are tensors of their own."""
        return None if self._buffer is None else self._rows(index, index + 1)


def _source_dtype(like: Tensor) -> torch.dtype:
    """The dtype that sources are kept in: under autocast that of matrix products, else their own."""
    return autocast_dtype(like.device) or like.dtype


def _is_same_memory(tensor: Tensor, other: Tensor) -> bool:
    return (
        tensor.untyped_storage()._cdata == other.untyped_storage()._cdata
        and tensor.storage_offset() == other.storage_offset()
    )
