"""Routers for layers of a model that was trained without them.

A router starts as the identity: at attach time a model computes what it did. Letters as in `limelm.routing.routers`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from limelm.adapters.history import ForwardHistory
from limelm.errors import UserError
from limelm.models.input_norms import input_norm
from limelm.routing import Router, RouterSpec, Rule, check_sources, depth_mix, mix_heads, whole
from limelm.routing.module import ROUTING_WEIGHTS

#: From one input per key/value head `[..., G, D]` to keys or values `[..., G, d]`.
Project = Callable[[Tensor], Tensor]
#: Parameters of a native attention module by their names in it.
State = dict[str, Tensor]
SMALLEST_WEIGHT = 1e-30  # of a source that is not read: its logarithm is finite, and it rounds away


class AttachedRouter(Router):
    """The router of an attention module of another family."""

    #: The routing of the native model that computes the same.
    native: ClassVar[str]

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

    def values_of_call(self, call: tuple, output: Tensor) -> tuple[Tensor, Tensor] | None:
        which, own = call[:2]
        return (output.flatten(-2), own.flatten(-2)) if which == "value" else None

    def parameter_rules(self) -> dict[str, Rule]:
        return {name: ROUTING_WEIGHTS for name, _ in self.named_parameters()}

    def place(self, which: str) -> int:
        """The set of weights for keys or values."""
        return 0 if self.spec.share_kv or which == "key" else 1

    def native_state(self) -> State:
        """The router of the native attention module that computes the same, as `router.*`.

        Raises:
            UserError: where no native layer can; it says why.
        """
        return {}

    def load_native(self, state: State, gain: Tensor | None) -> None:
        """Compute from now on what a native attention module computes.

        Args:
            state: its parameters.
            gain: `[D]`, that of the native layer's `routing_layernorm` over its `input_layernorm`'s; None without one.
        """

    def row_scales(self, which: str) -> Tensor | None:
        """Factors on the heads of keys or values, `[G]`, by which a projection alone does the same; None for others."""
        return None


class AttachedKeyValueRouter(AttachedRouter):
    """LIMe KV in a trained model: `K~_h = K_h + sum_j sum_h' W[h, j G + h'] K_{j,h'}`, V likewise.

    W is R of the native model minus the identity of the layer's own block, and starts at zero.
    """

    native = "kv"

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            heads = spec.num_heads
            self.weight = nn.Parameter(torch.zeros(spec.num_sets, heads, spec.num_sources * heads))

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        heads = self.spec.num_heads
        R = whole(self.weight).float().unflatten(-1, (-1, heads)).flatten(0, 1).clone()
        R[:, -1] += torch.eye(heads, device=R.device).repeat(self.spec.num_sets, 1)
        return R

    def native_state(self) -> State:
        return {"router.weight": self.effective_weights().flatten(1)}

    def load_native(self, state: State, gain: Tensor | None) -> None:
        heads = self.spec.num_heads
        self.weight[0] = state["router.weight"].float()
        self.weight[0, :, -heads:] -= torch.eye(heads, device=self.weight.device)

    def forward(self, which: str, own: Tensor, history: ForwardHistory, project: Project) -> Tensor:
        states, layers = history.heads[which], self.spec.source_ids
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

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.gate = nn.Parameter(torch.zeros(spec.num_sets, spec.num_heads))

    def routing_weights(self, place: int, history: ForwardHistory | None) -> Tensor:
        """A, `[G, n]`, or `[B, T, G, n]` where it depends on what the forward has in its history."""
        raise NotImplementedError

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        """`(1 - gate_h) e_i + gate_h A_h`, which sums to one; with a gate beyond 0 and 1 some of it is negative."""
        history = None if call is None else call[2]
        A = torch.cat([self.routing_weights(place, history) for place in range(self.spec.num_sets)], dim=-2)
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
            normalized = [history.normalized.of(layer, A.device) for layer in self.spec.source_ids]
            Z = depth_mix(normalized, A.to(normalized[-1].dtype))
        else:
            together = history.normalized.together(self.spec.source_ids, A.device)
            Z = A.to(together.dtype) @ together
        Z = history.norms[layer_idx].scale(Z)
        history.mixed[layer_idx] = which, Z
        return Z


class AttachedStaticRouter(AttachedRepresentationRouter):
    """`A = softmax(w)`, one distribution over the sources per head."""

    native = "static"

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(0.1 * torch.randn(spec.num_sets, spec.num_heads, spec.num_sources))

    def routing_weights(self, place: int, history: ForwardHistory | None) -> Tensor:
        return self.weight[place].float().softmax(dim=-1)

    def native_state(self) -> State:
        gate = self.gate[0].detach().double()
        for head, value in enumerate(gate.tolist()):
            if not 0 <= value <= 1:
                raise UserError(
                    f"layer {self.spec.layer_idx}, head {head}: its gate of {value:.4g} is outside [0, 1]: no native "
                    "mix"
                )
        A = gate[:, None] * self.weight[0].detach().double().softmax(dim=-1)
        A[:, -1] += 1 - gate
        return {"router.weight": A.clamp_min(SMALLEST_WEIGHT).log().float()}

    def load_native(self, state: State, gain: Tensor | None) -> None:
        self.gate.fill_(1)
        self.weight[0] = state["router.weight"].float()


class AttachedDynamicRouter(AttachedRepresentationRouter):
    """`A = softmax(N_i P^T)`, a distribution per token and head."""

    native = "dynamic"
    depends_on_tokens = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            rows = spec.num_heads * spec.num_sources
            self.weight = nn.Parameter(0.02 * torch.randn(spec.num_sets, rows, spec.hidden_size))

    def routing_weights(self, place: int, history: ForwardHistory | None) -> Tensor:
        if history is None:
            raise ValueError("dynamic routing depends on the tokens: give the history of a forward")
        layer_idx, P = self.spec.layer_idx, self.weight[place]
        attention_input = history.norms[layer_idx].scale(history.normalized.of(layer_idx, P.device))
        logits = attention_input @ P.to(attention_input.dtype).T
        return logits.unflatten(-1, (self.spec.num_heads, -1)).float().softmax(dim=-1)

    def directions(self, layer: nn.Module) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        norm = input_norm(layer)
        if norm.module is None:
            raise LookupError("its attention reads representations without a norm, so a token's direction has no scale")
        return lambda X: norm.scale(norm.normalize(X)), whole(self.weight).detach().float().flatten(0, 1)

    def native_state(self) -> State:
        if not bool((self.gate == 1).all()):
            raise UserError(
                f"layer {self.spec.layer_idx}: its gates are not all one; a dynamic router mixed with the layer's own "
                "input is no native one"
            )
        return {"router.proj.weight": self.weight[0].detach().float()}

    def load_native(self, state: State, gain: Tensor | None) -> None:
        self.gate.fill_(1)
        assert gain is not None
        self.weight[0] = state["router.proj.weight"].float() * gain


class AttachedScale(AttachedRouter):
    """`K~_h = (1 + s_h) K_h`, V likewise: no routing, but what a router has to be better than."""

    native = "none"
    routes = False
    options = frozenset()

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.weight = nn.Parameter(torch.zeros(spec.num_sets, spec.num_heads))

    def forward(self, which: str, own: Tensor, history: ForwardHistory, project: Project) -> Tensor:
        return own + self.weight[self.place(which)].to(own.dtype).unsqueeze(-1) * own

    def row_scales(self, which: str) -> Tensor:
        return 1 + self.weight[self.place(which)].detach().float()


#: The routers that can be attached, by the name that `attach` has for them.
ATTACHED_ROUTERS: dict[str, type[AttachedRouter]] = {
    "kv": AttachedKeyValueRouter,
    "static": AttachedStaticRouter,
    "dynamic": AttachedDynamicRouter,
    "scale": AttachedScale,
}


@dataclass(frozen=True)
class AdapterConfig:
    """How a model's routers are attached: the arguments of `attach`.

    Raises:
        UserError: for an unknown routing, or another value of the wrong kind.
        ValueError: for `routing_sources` that are not understood.
    """

    routing: str = "kv"
    share_kv: bool = True
    routing_sources: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.routing not in ATTACHED_ROUTERS:
            raise UserError(f"routing={self.routing!r} is unknown; allowed: {', '.join(ATTACHED_ROUTERS)}")
        if not isinstance(self.share_kv, bool):
            raise UserError(f"share_kv={self.share_kv!r} must be true or false")
        check_sources(self.routing_sources)
        if self.routing_sources is not None and "routing_sources" not in ATTACHED_ROUTERS[self.routing].options:
            raise UserError(f"routing_sources={self.routing_sources}: routing={self.routing!r} reads no other layer")
