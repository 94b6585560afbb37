"""The history of one forward with attached routers: what layers leave for later ones."""

import torch
from torch import Tensor

from limelm.models.input_norms import InputNorm


class LayerStates:
    """One state of each layer, of one kind, all of one shape.

    Without gradients they lie in one tensor, which a single product can mix: in half the time that one product for each
    takes. With gradients they do not, for what lies together is kept for the backward, of each layer anew.

    Args:
        layers: L, the model's.
        dim: of the layers where states lie together, as `torch.stack` counts.
        together: whether they do.
    """

    def __init__(self, layers: int, dim: int, together: bool):
        self._layers, self._dim, self._together = layers, dim, together
        self._one: Tensor | None = None
        self._each: dict[int, Tensor] = {}

    def keep(self, layer: int, state: Tensor) -> None:
        """Add a layer's; the layer may run again."""
        if not self._together:
            self._each[layer] = state.contiguous()
            return
        if self._one is None:
            shape = list(state.unsqueeze(self._dim).shape)
            shape[self._dim] = self._layers
            self._one = state.new_empty(shape)
        self._each[layer] = self._one.select(self._dim, layer).copy_(state)

    def of(self, layer: int, device: torch.device) -> Tensor:
        """A layer's own."""
        return self._each[layer].to(device)

    def together(self, layers: tuple[int, ...], device: torch.device) -> Tensor:
        """The states of some layers, ascending, in one tensor; only without gradients."""
        assert self._one is not None
        if layers[-1] - layers[0] == len(layers) - 1:
            return self._one.narrow(self._dim, layers[0], len(layers)).to(device)
        chosen = torch.tensor(layers, device=self._one.device)
        return self._one.index_select(self._dim, chosen).to(device)


class ForwardHistory:
    """The states that the layers so far have left, of one forward.

    Attributes:
        has_gradients: whether the forward began with gradients.
        heads: the layers' "key" and "value", `[G, ..., d]`.
        normalized: their normalized representations, `[..., D]`.
        norms: by layer, the norm before its attention.
        mixed: the layer's mixed input, and whether keys or values were made from it, until the others are too.
    """

    def __init__(self, layers: int):
        self.has_gradients = torch.is_grad_enabled()
        together = not self.has_gradients
        self.heads = {which: LayerStates(layers, 0, together) for which in ("key", "value")}
        self.normalized = LayerStates(layers, -2, together)
        self.norms: dict[int, InputNorm] = {}
        self.mixed: dict[int, tuple[str, Tensor | None]] = {}
