"""Routers for layers of a model that was trained without them, and the history that they read.

A router starts as the identity: at attach time a model computes what it did. Letters as in `limelm.routing.routers`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limelm.adapters.norms import InputNorm
from limelm.routing.reference import mix_heads, mix_representations


class ForwardHistory:
    """What the layers so far have left, of one forward.

    Attributes:
        heads: keys or values by "key" or "value" and layer, `[G, N d]`.
        units: normalised representations by layer, `[..., D]`.
        norms: by layer, the norm before its attention.
    """

    def __init__(self) -> None:
        self.heads: dict[tuple[str, int], Tensor] = {}
        self.units: dict[int, Tensor] = {}
        self.norms: dict[int, InputNorm] = {}


@dataclass(frozen=True)
class AttachedSpec:
    """What a router must know of its layer.

    Attributes:
        layer_idx: i; layer 0 has nothing to choose from, and no parameters.
        sources: the layers that it reads, its own the last.
        hidden_size: D.
        heads: G.
        share_kv: one set of weights for keys and values; else one for each.
    """

    layer_idx: int
    sources: tuple[int, ...]
    hidden_size: int
    heads: int
    share_kv: bool

    @property
    def sets(self) -> int:
        """Of weights: for keys and values together, or each."""
        return 1 if self.share_kv else 2


#: From one input per key/value head `[..., G, D]` to keys or values `[..., G, d]`.
Project = Callable[[Tensor], Tensor]


class AttachedRouter(nn.Module):
    """What an attention module has as its `router`."""

    #: Whether earlier layers are read at all.
    routes = True
    #: Whether representations are mixed, and not keys and values.
    mixes_representations = False

    def __init__(self, spec: AttachedSpec):
        super().__init__()
        self.spec = spec

    def forward(self, which: str, own: Tensor, history: ForwardHistory, project: Project) -> Tensor:
        """Route this layer's keys or values.

        Args:
            which: "key" or "value".
            own: `[..., G, d]`, before any norm and position embedding.
            project: the layer's own projection.

        Returns:
            The routed ones, `[..., G, d]`.
        """
        raise NotImplementedError

    def place(self, which: str) -> int:
        """The set of weights for keys or values."""
        return 0 if self.spec.share_kv or which == "key" else 1


class AttachedKeyValueRouter(AttachedRouter):
    """LIMe KV in a trained model: `K~_h = K_h + sum_j sum_h' W[h, j G + h'] K_{j,h'}`, V likewise.

    W is R of the native model minus the identity of the layer's own block, and starts at zero.
    """

    def __init__(self, spec: AttachedSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(torch.zeros(spec.sets, spec.heads, len(spec.sources) * spec.heads))

    def forward(self, which: str, own: Tensor, history: ForwardHistory, project: Project) -> Tensor:
        history.heads[which, self.spec.layer_idx] = own.movedim(-2, 0).flatten(1)
        if self.spec.layer_idx == 0:
            return own
        sources = [history.heads[which, layer].to(own.device) for layer in self.spec.sources]
        mixed = mix_heads(sources, self.weight[self.place(which)].to(own.dtype))
        return own + mixed.unflatten(1, (*own.shape[:-2], own.shape[-1])).movedim(0, -2)


class AttachedRepresentationRouter(AttachedRouter):
    """`K~_h = K_h + gate_h (Z_h Wk_h - K_h)`, `Z_h = sum_j A[h, j] norm(X_j)` with the norm that the layer has.

    The gate starts closed, at zero. Its own gradient is alive from the first step on, those of A from the second.
    """

    mixes_representations = True

    def __init__(self, spec: AttachedSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.gate = nn.Parameter(torch.zeros(spec.sets, spec.heads))

    def routing_weights(self, place: int, attention_input: Tensor) -> Tensor:
        """A, `[G, n]` or `[B, T, G, n]`, from the layer's normalised input `[B, T, D]`."""
        raise NotImplementedError

    def forward(self, which: str, own: Tensor, history: ForwardHistory, project: Project) -> Tensor:
        if self.spec.layer_idx == 0:
            return own
        norm, place = history.norms[self.spec.layer_idx], self.place(which)
        units = [history.units[layer].to(own.device) for layer in self.spec.sources]
        A = self.routing_weights(place, norm.scale(units[-1])).to(units[-1].dtype)
        routed = project(norm.scale(mix_representations(units, A)))
        return own + self.gate[place].to(own.dtype).unsqueeze(-1) * (routed - own)


class AttachedStaticRouter(AttachedRepresentationRouter):
    """`A = softmax(w)`, one distribution over the sources per head."""

    def __init__(self, spec: AttachedSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(0.1 * torch.randn(spec.sets, spec.heads, len(spec.sources)))

    def routing_weights(self, place: int, attention_input: Tensor) -> Tensor:
        return self.weight[place].float().softmax(dim=-1)


class AttachedDynamicRouter(AttachedRepresentationRouter):
    """`A = softmax(N_i P^T)`, a distribution per token and head."""

    def __init__(self, spec: AttachedSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            rows = spec.heads * len(spec.sources)
            self.weight = nn.Parameter(0.02 * torch.randn(spec.sets, rows, spec.hidden_size))

    def routing_weights(self, place: int, attention_input: Tensor) -> Tensor:
        logits = attention_input @ self.weight[place].to(attention_input.dtype).T
        return logits.unflatten(-1, (self.spec.heads, -1)).float().softmax(dim=-1)


class AttachedScale(AttachedRouter):
    """`K~_h = (1 + s_h) K_h`, V likewise: no routing, but what a router has to be better than."""

    routes = False

    def __init__(self, spec: AttachedSpec):
        super().__init__(spec)
        self.weight = nn.Parameter(torch.zeros(spec.sets, spec.heads))

    def forward(self, which: str, own: Tensor, history: ForwardHistory, project: Project) -> Tensor:
        return own + self.weight[self.place(which)].to(own.dtype).unsqueeze(-1) * own


ROUTERS: dict[str, type[AttachedRouter]] = {
    "kv": AttachedKeyValueRouter,
    "static": AttachedStaticRouter,
    "dynamic": AttachedDynamicRouter,
    "scale": AttachedScale,
}
