"""Routers for layers of a model that was trained without them.

A router starts as the identity: at attach time a model computes what it did. Letters as in `limelm.routing.routers`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from limelm.adapters.history import ApartSources, ForwardHistory
from limelm.errors import UserError
from limelm.models.families import Projection, project_heads
from limelm.models.input_norms import MixedInput, input_norm
from limelm.routing import (
    KeyValueRouter,
    RepresentationRouter,
    Router,
    RouterSpec,
    ValueResidualRouter,
    depth_mix,
    mix_heads_by_token,
    weighted_mix,
    whole,
)

#: Parameters of a native attention module by their names in it.
State = dict[str, Tensor]
SMALLEST_WEIGHT = 1e-30  # of a source that is not read: its logarithm is finite, and it rounds away


@dataclass(eq=False, slots=True)
class Request:
    """A call of a router: the keys or the values of a layer are wanted.

    Attributes:
        which: "key" or "value".
        inputs: `[..., D]`, what the layer's projection is given.
        own: what it makes of it `[..., G, d]`, before any norm and position embedding; None where it was spared that.
        projection, module: the layer's projection.
    """

    which: str
    inputs: Tensor
    own: Tensor | None
    history: ForwardHistory
    projection: Projection
    module: nn.Module

    def make_own(self) -> Tensor:
        """Make the layer's own keys or values, also where its projection was spared that."""
        return self.projection.split(self.module(self.inputs))[self.which] if self.own is None else self.own

    def project(self, inputs: MixedInput) -> Tensor:
        """Project an input for each head, `[..., G, D]` to `[..., G, d]`."""
        return project_heads(self.projection, self.module, self.which, inputs)


#: What routers of LIMe are called; other kinds have other names.
LIME_ROUTERS = "Layer-Integrated Memory routers"


class AttachedRouter(Router):
    """The router of an attention module of another family."""

    #: The routing of the native model that computes the same.
    native: ClassVar[str]
    #: The arguments of `attach` that this kind understands, beyond the routing.
    options = frozenset({"routing_sources", "share_kv"})

    #: What the routers of a model are, as the card of an adapter says it.
    called: ClassVar[str] = LIME_ROUTERS

    def forward(self, request: Request) -> Tensor:
        """Route this layer's keys or values: those that are wanted, `[..., G, d]`."""
        raise NotImplementedError

    def values_of_call(self, call: tuple, output: Tensor) -> tuple[Tensor, Tensor] | None:
        (request,) = call
        return (output.flatten(-2), request.make_own().flatten(-2)) if request.which == "value" else None

    def set_index(self, which: str) -> int:
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
    reads_what, makes_own_source = KeyValueRouter.reads_what, True

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
        self.weight.copy_(state["router.weight"].view_as(self.weight))
        self.weight[..., -heads:] -= torch.eye(heads, device=self.weight.device)

    def forward(self, request: Request) -> Tensor:
        own, states = request.own, request.history.heads[request.which]
        assert own is not None
        states.keep(self.spec.layer_idx, own.movedim(-2, 0))
        if self.spec.layer_idx == 0:
            return own
        place = self.set_index(request.which)
        if self.change is not None:
            assert isinstance(states, ApartSources)
            sources = [source.movedim(0, -2) for source in states.each(self.source_ids, own.device)]
            R = self.effective_weights().unflatten(0, (self.spec.num_sets, -1))[place]
            return self.mixed(mix_heads_by_token, sources, R.to(own.dtype), place * self.spec.num_heads, request.which)
        return own + states.mix_heads(self.source_ids, self.weight[place]).movedim(0, -2)


class AttachedRepresentationRouter(AttachedRouter):
    """`K~_h = K_h + gate_h (Z_h Wk_h - K_h)`, `Z_h = sum_j A[h, j] norm(X_j)` with the norm that the layer has.

    The gate starts closed, at zero. Its own gradient is alive from the first step on, those of A from the second.
    """

    reads_what = RepresentationRouter.reads_what
    mixes_representations = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.gate = nn.Parameter(torch.zeros(spec.num_sets, spec.num_heads))

    def routing_weights(self, place: int, inputs: Tensor | None) -> Tensor:
        """A, `[G, n]`; or, where it depends on the layer's own normalized input `[..., D]`, `[..., G, n]`."""
        raise NotImplementedError

    def gated_weights(self, place: int, inputs: Tensor | None) -> Tensor:
        """`(1 - gate_h) e_i + gate_h A_h`, which sums to one; with a gate beyond 0 and 1 some of it is negative."""
        gate = whole(self.gate)[place].float()
        weights = gate.unsqueeze(-1) * whole(self.routing_weights(place, inputs))
        weights.select(-1, -1).add_(1 - gate)
        return weights

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        inputs = None if call is None else call[0].inputs
        return torch.cat([self.gated_weights(place, inputs) for place in range(self.spec.num_sets)], dim=-2)

    def forward(self, request: Request) -> Tensor:
        own, layer_idx, history = request.own, self.spec.layer_idx, request.history
        if layer_idx > 0 and self.change is not None:
            return request.project(self._changed(request))
        if layer_idx > 0 and history.replaces(layer_idx):
            return request.project(self._mixed(request, self.gated_weights))
        assert own is not None
        if layer_idx == 0 or history.is_at_rest(layer_idx):
            return own
        gate = self.gate[self.set_index(request.which)].to(own.dtype).unsqueeze(-1)
        return own + gate * (request.project(self._mixed(request, self.routing_weights)) - own)

    def _changed(self, request: Request) -> MixedInput:
        """Mix what heads read, their own way past the router included, as the change has it."""
        layer_idx, place = self.spec.layer_idx, self.set_index(request.which)
        states = request.history.normalized
        assert isinstance(states, ApartSources)
        sources = [source[0] for source in states.each(self.source_ids, request.inputs.device)]
        weights = self.gated_weights(place, request.inputs).to(sources[0].dtype)
        Z = self.mixed(depth_mix, sources, weights, place * self.spec.num_heads, request.which)
        return MixedInput(Z, request.history.norms[layer_idx])

    def _mixed(self, request: Request, weights: Callable[[int, Tensor], Tensor]) -> MixedInput:
        """Z `[..., G, D]`; made once where keys and values share their weights."""
        layer_idx, which, history = self.spec.layer_idx, request.which, request.history
        made_for, Z = history.mixed.pop(layer_idx, (which, None))
        if Z is None or made_for == which or not self.spec.share_kv:
            A = weights(self.set_index(which), request.inputs)
            Z = MixedInput(history.normalized.mix_depth(self.source_ids, A), history.norms[layer_idx])
            history.mixed[layer_idx] = which, Z
        return Z


class AttachedStaticRouter(AttachedRepresentationRouter):
    """`A = softmax(w)`, one distribution over the sources per head."""

    native = "static"

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(0.1 * torch.randn(spec.num_sets, spec.num_heads, spec.num_sources))

    def routing_weights(self, place: int, inputs: Tensor | None) -> Tensor:
        return self.weight[place].float().softmax(dim=-1)

    def native_state(self) -> State:
        gate = self.gate.detach().double()
        for row, value in enumerate(gate.flatten().tolist()):
            if not 0 <= value <= 1:
                head = row % self.spec.num_heads
                raise UserError(
                    f"layer {self.spec.layer_idx}, head {head}: its gate of {value:.4g} is outside [0, 1]: no native "
                    "mix"
                )
        A = gate.unsqueeze(-1) * self.weight.detach().double().softmax(dim=-1)
        A[..., -1] += 1 - gate
        return {"router.weight": A.clamp_min(SMALLEST_WEIGHT).log().float().flatten(0, 1)}

    def load_native(self, state: State, gain: Tensor | None) -> None:
        self.gate.fill_(1)
        self.weight.copy_(state["router.weight"].view_as(self.weight))


class AttachedDynamicRouter(AttachedRepresentationRouter):
    """`A = softmax(N_i P^T)`, a distribution per token and head."""

    native = "dynamic"
    depends_on_tokens = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            rows = spec.num_heads * spec.num_sources
            self.weight = nn.Parameter(0.02 * torch.randn(spec.num_sets, rows, spec.hidden_size))

    def routing_weights(self, place: int, inputs: Tensor | None) -> Tensor:
        if inputs is None:
            raise ValueError("dynamic routing depends on the tokens: give the arguments of a call")
        logits = inputs @ self.weight[place].to(inputs.dtype).T
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
        return {"router.proj.weight": self.weight.detach().float().flatten(0, 1)}

    def load_native(self, state: State, gain: Tensor | None) -> None:
        self.gate.fill_(1)
        assert gain is not None
        self.weight.copy_((state["router.proj.weight"].float() * gain).view_as(self.weight))


class AttachedValueResidualRouter(AttachedRouter):
    """Value Residual in a trained model: `V~_i = w_0 V_0 + w_1 V_i`, of values alone (arXiv 2410.17897)."""

    native = "value_residual"
    called = "Connections over depth"
    reads_what, makes_own_source = ValueResidualRouter.reads_what, True
    source_products = ValueResidualRouter.source_products
    options = frozenset()

    def __init__(self, spec: RouterSpec):
        super().__init__(replace(spec, sources={"first": 1, "last": 1}))
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(torch.tensor([0.0, 1.0]))

    effective_weights = ValueResidualRouter.effective_weights

    def forward(self, request: Request) -> Tensor:
        own, left = request.own, request.history.left
        assert own is not None
        if request.which == "key":
            return own
        if self.spec.layer_idx == 0:
            left[0] = own
            return own
        return self.mixed(weighted_mix, (left[0].to(own.device), own), self.weight)

    def native_state(self) -> State:
        return {"router.weight": self.weight.detach()}

    def load_native(self, state: State, gain: Tensor | None) -> None:
        self.weight.copy_(state["router.weight"])


class AttachedScale(AttachedRouter):
    """`K~_h = (1 + s_h) K_h`, V likewise: no routing, but what a router has to be better than."""

    native = "none"
    called = "Scales of heads"
    routes = False
    options = frozenset({"share_kv"})

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.weight = nn.Parameter(torch.zeros(spec.num_sets, spec.num_heads))

    def forward(self, request: Request) -> Tensor:
        own = request.own
        assert own is not None
        return own + self.weight[self.set_index(request.which)].to(own.dtype).unsqueeze(-1) * own

    def row_scales(self, which: str) -> Tensor:
        return 1 + self.weight[self.set_index(which)].detach().float()
