"""The history of one forward with attached routers: what layers leave for later ones, and how these read it.

As in this package's own models, what the layers leave lies in the rows of one matrix, which one product mixes, and its
gradients in those of one buffer, to which every reader adds: the *carrier* brings it from the last reader to the first
(`limelm.routing.ops.autograd`). Where a compiler or a transform of `torch.func` is to find the gradients itself, or
routes are changed, layers leave tensors of their own, and the formulas mix them.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from limelm.adapters.mixing import COMPUTE, keep_rows, mix
from limelm.models.input_norms import InputNorm, MixedInput
from limelm.routing import depth_mix, mix_heads, runs_by_formulas
from limelm.routing.ops.autograd import keep_representation, new_carrier
from limelm.routing.ops.backends import autocast_dtype
from limelm.routing.ops.rms_norm import is_transformed
from limelm.routing.ops.source_matrix import empty_rows, runs


class ApartSources:
    """A store of what the layers leave as tensors of their own, whose gradients autograd finds."""

    def __init__(self) -> None:
        self._each: dict[int, Tensor] = {}

    def keep(self, layer: int, state: Tensor) -> None:
        """Add what a layer leaves, r rows `[r, ...]`; the layer may run again."""
        self._each[layer] = state

    def keep_normalized(self, layer: int, X: Tensor, norm: InputNorm) -> None:
        """Add a layer's normalized representation, of X `[..., D]`, as one row."""
        self.keep(layer, norm.normalize(X)[None])

    def mix_heads(self, layers: tuple[int, ...], weights: Tensor) -> Tensor:
        """Mix the rows of `n` layers: weights `[G, n G]`; returns `[G, ...]`."""
        sources = self.each(layers, weights.device)
        weights = weights.to(sources[0].dtype)
        return mix_heads([source.flatten(1) for source in sources], weights).view(sources[0].shape)

    def mix_depth(self, layers: tuple[int, ...], weights: Tensor) -> Tensor:
        """Mix the representations of `n` layers for each head: weights `[G, n]` or `[..., G, n]`.

        Returns:
            Z `[..., G, D]`.
        """
        sources = [source[0] for source in self.each(layers, weights.device)]
        return depth_mix(sources, weights.to(sources[0].dtype))

    def each(self, layers: tuple[int, ...], device: torch.device) -> list[Tensor]:
        """The rows `[r, ...]` of `n` layers."""
        return [self._each[layer].to(device) for layer in layers]


class Sources:
    """A store of what the layers leave in the rows of one matrix, with the methods of `ApartSources`.

    Args:
        layers: L, the model's.
        has_gradients: whether any may be wanted.
    """

    def __init__(self, layers: int, has_gradients: bool):
        self._layers = layers
        self._has_gradients = has_gradients
        self._matrix: Tensor | None = None
        self._places: tuple[Tensor, ...] = ()
        self._shape = torch.Size()  # of a state
        self._carrier: Tensor | None = None  # made for the first state that needs a gradient, and those after it
        self._first = 0  # whose layer that is
        self._carrier_before: dict[int, Tensor | None] = {}  # by layer: where it begins when it runs again

    def keep(self, layer: int, state: Tensor) -> None:
        place = self._begin(layer, state)
        carrier = self._carrier_for(layer, state)
        if carrier is None:
            place.copy_(state)
        else:
            self._carrier = keep_rows(state.to(place.device), carrier, place, (layer - self._first) * place.shape[0])

    def keep_normalized(self, layer: int, X: Tensor, norm: InputNorm) -> None:
        state = X.unsqueeze(0)
        if norm.module is None:
            self.keep(layer, state)
            return
        place = self._begin(layer, state)
        carrier = self._carrier_for(layer, state)
        if carrier is None:
            place.copy_(norm.normalize(state))
        else:
            centered, eps = norm.center(state.to(place.device)), norm.eps
            assert eps is not None
            _, self._carrier = keep_representation(centered, carrier, place, eps, layer - self._first, COMPUTE)

    def mix_heads(self, layers: tuple[int, ...], weights: Tensor) -> Tensor:
        return self._mix(layers, weights).view(self._shape).to(weights.device)

    def mix_depth(self, layers: tuple[int, ...], weights: Tensor) -> Tensor:
        tokens, size = self._shape[1:-1], self._shape[-1]
        if weights.ndim == 2:
            return self._mix(layers, weights).view(-1, *tokens, size).movedim(0, -2).to(weights.device)
        return self._mix(layers, weights.flatten(0, -3)).view(*tokens, -1, size).to(weights.device)

    def _begin(self, layer: int, state: Tensor) -> Tensor:
        """The place for a layer's state; the carrier is then as it was before the layer."""
        if self._matrix is None:
            self._shape = state.shape
            dtype = autocast_dtype(state.device) or state.dtype
            self._matrix = empty_rows(self._layers * state.shape[0], state[0].numel(), state, dtype)
            self._places = self._matrix.view(self._layers, *state.shape).unbind()
        if not self._has_gradients:
            return self._places[layer]
        self._carrier = self._carrier_before.setdefault(layer, self._carrier)
        return self._places[layer].data  # a version counter of its own: writing it changes nothing that was saved

    def _carrier_for(self, layer: int, state: Tensor) -> Tensor | None:
        """The carrier that a state joins; None where neither it nor an earlier one needs a gradient."""
        if not self._has_gradients or (self._carrier is None and not state.requires_grad):
            return None
        if self._carrier is None:
            assert self._matrix is not None
            self._first = layer
            rows, columns = (self._layers - layer) * state.shape[0], self._matrix.shape[1]
            self._carrier = new_carrier(rows, columns, self._matrix, self._matrix.dtype)
        return self._carrier

    def _mix(self, layers: tuple[int, ...], weights: Tensor) -> Tensor:
        assert self._matrix is not None
        matrix = self._matrix.data if self._has_gradients else self._matrix
        r = self._shape[0]
        blocks = [matrix[first * r : last * r] for first, last in _blocks(layers)]
        places = [layer - self._first for layer in layers] if self._has_gradients else ()
        mixed, self._carrier = mix(self._carrier, weights.to(matrix), blocks, places)
        return mixed


@functools.cache
def _blocks(layers: tuple[int, ...]) -> list[tuple[int, int]]:
    """Runs of layers, [first, last)."""
    return [(first, first + stop - start) for start, stop, first in runs(layers)]


class ForwardHistory:
    """The states that the layers so far have left, of one forward.

    Attributes:
        has_gradients: whether the forward began with gradients.
        heads: the layers' "key" and "value", `[G, ..., d]`.
        normalized: their normalized representations, `[1, ..., D]`.
        norms: by layer, the norm before its attention.
        mixed: by layer, the mixed input, and for which of keys and values it was made first; gone when both have it.
        left: what layers left that is neither, by number: values of Value Residual, what connections keep.
        acting: by layer, whether the gate of its router is open; None where that is not known, or there are no gates.
    """

    def __init__(self, layers: int, acting: list[bool] | None):
        self.has_gradients = torch.is_grad_enabled()
        is_followed = torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed()
        apart = runs_by_formulas() or (self.has_gradients and is_followed)
        kinds = (ApartSources() if apart else Sources(layers, self.has_gradients) for _ in range(3))
        self.heads = dict(zip(("key", "value"), kinds, strict=False))
        self.normalized = next(kinds)
        self.norms: dict[int, InputNorm] = {}
        self.mixed: dict[int, tuple[str, MixedInput | None]] = {}
        self.left: dict[int, Any] = {}
        self.acting = acting

    def replaces(self, layer: int) -> bool:
        """Whether a layer's router makes keys and values without the layer's own."""
        return self.acting is not None and self.acting[layer]

    def is_at_rest(self, layer: int) -> bool:
        """Whether nothing is to be done: the layer's gate is closed, and needs no gradient."""
        return not self.has_gradients and self.acting is not None and not self.acting[layer]
