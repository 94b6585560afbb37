"""Routers for layers of a model that was trained without them.

A router starts as the identity: at attach time a model computes what it did. Letters as in `limelm.routing.routers`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limelm.adapters.history import ForwardHistory
from limelm.errors import UserError
from limelm.routing import check_routing_sources, whole
from limelm.routing.reference import mix_heads, mix_representations


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

    def effective_weights(self, history: ForwardHistory | None = None) -> Tensor:
        """How much of each source there is in what the layer's heads read, their own way past the router included.

        Args:
            history: of a forward; only weights that depend on tokens need it.

        Returns:
            `[S G, n]`, the keys' heads first where keys and values have weights of their own (S = 2). Of "kv" R,
            `[S G, n, G]`, by the sources' heads; of "dynamic" `[B, T, S G, n]`. The last source is the layer itself.

        Raises:
            TypeError: for a router that reads no sources, and in layer 0.
        """
        raise TypeError(f"{type(self).__name__} of layer {self.spec.layer_idx} has no choice of sources")

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

    @torch.no_grad()
    def effective_weights(self, history: ForwardHistory | None = None) -> Tensor:
        if self.spec.layer_idx == 0:
            return super().effective_weights(history)
        heads = self.spec.heads
        R = whole(self.weight).float().unflatten(-1, (-1, heads)).flatten(0, 1).clone()
        R[:, -1] += torch.eye(heads, device=R.device).repeat(self.spec.sets, 1)
        return R

    def forward(self, which: str, own: Tensor, history: ForwardHistory, project: Project) -> Tensor:
        states, layers = history.heads[which], self.spec.sources
        states.keep(self.spec.layer_idx, own.movedim(-2, 0))
        if self.spec.layer_idx == 0:
            return own
        W = self.weight[self.place(which)].to(own.dtype)
        if history.has_gradients:
            mixed = mix_heads([states.of(layer, own.device).flatten(1) for layer in layers], W)
        else:
            mixed = W @ states.together(layers, own.device).flatten(0, 1).flatten(1)
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

    def routing_weights(self, place: int, history: ForwardHistory | None) -> Tensor:
        """A, `[G, n]`, or `[B, T, G, n]` where it depends on what the forward has in its history."""
        raise NotImplementedError

    @torch.no_grad()
    def effective_weights(self, history: ForwardHistory | None = None) -> Tensor:
        """`(1 - gate_h) e_i + gate_h A_h`, which sums to one; with a gate beyond 0 and 1 some of it is negative."""
        if self.spec.layer_idx == 0:
            return super().effective_weights(history)
        A = torch.cat([self.routing_weights(place, history) for place in range(self.spec.sets)], dim=-2)
        gate = whole(self.gate).flatten()
        weights = gate.unsqueeze(-1) * whole(A)
        weights[..., -1] += 1 - gate
        return weights

    def forward(self, which: str, own: Tensor, history: ForwardHistory, project: Project) -> Tensor:
        if self.spec.layer_idx == 0:
            return own
        gate = self.gate[self.place(which)].to(own.dtype).unsqueeze(-1)
        return own + gate * (project(self._mixed_input(which, history)) - own)

    def _mixed_input(self, which: str, history: ForwardHistory) -> Tensor:
        """Z `[..., G, D]` with the layer's own norm; made once where keys and values share their weights."""
        layer_idx = self.spec.layer_idx
        made_for, Z = history.mixed.pop(layer_idx, (which, None))
        if Z is not None and made_for != which and self.spec.share_kv:
            return Z
        A = self.routing_weights(self.place(which), history)
        if history.has_gradients:
            units = [history.units.of(layer, A.device) for layer in self.spec.sources]
            Z = mix_representations(units, A.to(units[-1].dtype))
        else:
            together = history.units.together(self.spec.sources, A.device)
            Z = A.to(together.dtype) @ together
        Z = history.norms[layer_idx].scale(Z)
        history.mixed[layer_idx] = which, Z
        return Z


class AttachedStaticRouter(AttachedRepresentationRouter):
    """`A = softmax(w)`, one distribution over the sources per head."""

    def __init__(self, spec: AttachedSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(0.1 * torch.randn(spec.sets, spec.heads, len(spec.sources)))

    def routing_weights(self, place: int, history: ForwardHistory | None) -> Tensor:
        return self.weight[place].float().softmax(dim=-1)


class AttachedDynamicRouter(AttachedRepresentationRouter):
    """`A = softmax(N_i P^T)`, a distribution per token and head."""

    def __init__(self, spec: AttachedSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            rows = spec.heads * len(spec.sources)
            self.weight = nn.Parameter(0.02 * torch.randn(spec.sets, rows, spec.hidden_size))

    def routing_weights(self, place: int, history: ForwardHistory | None) -> Tensor:
        if history is None:
            raise ValueError("dynamic routing depends on the tokens: give the history of a forward")
        layer_idx, P = self.spec.layer_idx, self.weight[place]
        attention_input = history.norms[layer_idx].scale(history.units.of(layer_idx, P.device))
        logits = attention_input @ P.to(attention_input.dtype).T
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


@dataclass(frozen=True)
class AdapterConfig:
    """Arguments of `attach`.

    Raises:
        UserError: for an unknown routing, or another value of the wrong kind.
        ValueError: for `routing_sources` that are not understood.
    """

    routing: str = "kv"
    share_kv: bool = True
    routing_sources: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.routing not in ROUTERS:
            raise UserError(f"routing={self.routing!r} is unknown; allowed: {', '.join(ROUTERS)}")
        if not isinstance(self.share_kv, bool):
            raise UserError(f"share_kv={self.share_kv!r} must be true or false")
        check_routing_sources(self.routing_sources)
        if self.routing_sources is not None and not ROUTERS[self.routing].routes:
            raise UserError(f"routing_sources={self.routing_sources}: routing={self.routing!r} reads no other layer")
