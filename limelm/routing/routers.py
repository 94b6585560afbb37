"""The routers: how a layer makes its keys and values from what all layers so far have left behind.

A router is one class and one line in `ROUTERS`. It decides what a layer leaves for the later ones (its *source*), what
it learns, and how the sources become keys and values. Letters are the paper's: layer i reads the representations
X_0 ... X_i, N is a normalised one, A and R are routing weights, Z a mixed input, K and V keys and values.

Layer 0 has nothing to choose from. Under every routing it is a plain Llama layer, whose router has no parameters and
only hands its source on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import initialization as init

from limelm.routing.backends import resolve_backend
from limelm.routing.bounds import sources_of_layer
from limelm.routing.history import keep_heads
from limelm.routing.operations import route_heads, route_representations
from limelm.routing.projection import HeadwiseLinear, RoutingLinear
from limelm.routing.reference import mix_heads, mix_representations
from limelm.routing.top_p import Pruning, prune, top_p_mask

Routed = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # K, V, the carrier, and the source for later layers


@dataclass(frozen=True)
class RouterSpec:
    """What a router must know of its layer: where it stands, its G key/value heads, and the config's options."""

    layer_idx: int
    hidden_size: int
    num_heads: int
    top_p: float | None = None
    init: str = "paper"
    bounds: dict[str, int] | None = None
    backend: str = "auto"

    @property
    def sources(self) -> tuple[int, ...]:
        """Indices of the representations that the layer routes over; unbounded, 0 ... i."""
        return sources_of_layer(self.layer_idx, self.bounds)

    @property
    def num_sources(self) -> int:
        """How many they are."""
        return len(self.sources)


class Router(nn.Module):
    """Plain Llama (`routing="none"`): keys and values from the layer's own input, nothing handed on."""

    #: K and V of head h are projected from a mixed input Z_h of its own; the layer then owns a `routing_layernorm`.
    headwise = False
    #: Indices of the sources that the layer is given.
    reads: tuple[int, ...] = ()

    def __init__(self, spec: RouterSpec):
        super().__init__()
        self.spec = spec

    def init_weights(self) -> None:
        """Initialise this module's raw parameters (linear children are left to the model)."""

    def forward(
        self,
        attention_input: Tensor,
        gain: Tensor | None,
        k_proj: nn.Module,
        v_proj: nn.Module,
        carrier: Tensor | None = None,
        sources: Sequence[Tensor] = (),
    ) -> Routed:
        """Make this layer's keys and values, before RoPE.

        Args:
            attention_input: `[B, T, D]`, RMSNorm(X_i) with `input_layernorm`'s gain: what Q is made from.
            gain: `[D]`, the `routing_layernorm` gain g_i; None where the layer has none.
            k_proj, v_proj: the layer's projections (`HeadwiseLinear` where the router is `headwise`).
            carrier, sources: what `History.read` gives for this layer: the sources that `reads` names.

        Returns:
            K and V, each `[B, T, G d]` or `[B, T, G, d]`, the carrier, and this layer's source for the later ones
            (None where that is its normalised input, or where there is none).
        """
        return k_proj(attention_input), v_proj(attention_input), carrier, None


class RepresentationRouter(Router):
    """Mix first, then project: each head's input is a convex combination of normalised representations."""

    headwise = True
    per_token = False
    kept: list[list[int]] | None = None  # per head the sources that are read; None: all

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.reads = spec.sources

    def routing_weights(self, current: Tensor) -> Tensor:
        """A, `[G, n]` or `[B, T, G, n]`, from the layer's own normalised input N_i `[B, T, D]`."""
        raise NotImplementedError

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        """What the fast operation reads: sources, and A `[G, n]` (or, `per_token`, the projection P `[G n, D]`)."""
        raise NotImplementedError

    def forward(self, attention_input, gain, k_proj, v_proj, carrier=None, sources=()) -> Routed:
        if not self.reads:
            return k_proj(attention_input), v_proj(attention_input), carrier, None
        backend = resolve_backend(self.spec.backend, attention_input.device)
        if backend == "reference":
            # N_j = gain * normalised X_j; the gain is the same for all sources, so it is applied once, to their mix.
            A = self.routing_weights(gain * sources[-1]).to(sources[-1].dtype)
            Z = gain * mix_representations(sources, A, self.kept)
            return k_proj(Z), v_proj(Z), None, None
        read, weights = self.operands(sources)
        k_weight, v_weight = (_own_weight(projection) for projection in (k_proj, v_proj))
        heads = self.spec.num_heads
        K, V, carrier = route_representations(
            carrier, read, self.reads, weights, gain, k_weight, v_weight, heads, self.per_token, backend
        )
        shape = (heads, *attention_input.shape[:2], -1)
        K, V = (states.view(shape).permute(1, 2, 0, 3) for states in (K, V))
        if k_proj.bias is not None:
            K, V = (x + p.bias.unflatten(0, (heads, -1)) for x, p in ((K, k_proj), (V, v_proj)))
        return K, V, carrier, None


def _own_weight(projection: nn.Module, kind: type[RoutingLinear] = HeadwiseLinear) -> Tensor:
    """The weight of a projection that the routing reads itself instead of calling the module."""
    passed_over = None
    if type(projection) is not kind:
        passed_over = f"{type(projection).__name__} in the place of {kind.__name__}"
    elif "forward" in projection.__dict__:
        passed_over = "a forward put in the place of the module's own"
    elif any(getattr(projection, f"_{name}_hooks") for name in ("forward", "forward_pre", "backward", "backward_pre")):
        passed_over = "the hooks on a module"
    if passed_over:
        raise TypeError(
            f"routing reads the weights of k_proj, v_proj and router.proj itself and would pass over {passed_over}; "
            "leave the modules as they are, or build the model with routing_backend='reference', which calls them"
        )
    return projection.weight  # type: ignore[return-value]  # it is of this kind


class StaticRouter(RepresentationRouter):
    """LIMe static (section 3): `A = softmax(w)`, one learned distribution over the sources per head.

    With `top_p` the smallest weights are dropped (section 5.4): from the current weights at every training step, and
    frozen when the module is put in evaluation mode, where a dropped source costs nothing.
    """

    pruning: Pruning | None = None  # what to read at inference; None: everything

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(torch.empty(spec.num_heads, spec.num_sources))
            self.register_buffer("frozen_mask", None, persistent=False)
            self.register_load_state_dict_post_hook(_refresh_kept_sources)

    def init_weights(self) -> None:
        if self.spec.layer_idx > 0:
            init.normal_(self.weight, mean=0.0, std=0.1)

    def routing_weights(self, current: Tensor | None = None) -> Tensor:
        A = self.weight.float().softmax(dim=-1)
        if self.spec.top_p is None:
            return A
        return prune(A, top_p_mask(A, self.spec.top_p) if self.frozen_mask is None else self.frozen_mask)

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        A = self.routing_weights()
        if self.pruning is None or torch.is_grad_enabled():
            return sources, A
        return self.pruning.apply(sources, A)

    def train(self, mode: bool = True) -> "StaticRouter":
        super().train(mode)
        if self.spec.top_p is not None and self.spec.layer_idx > 0:
            self.frozen_mask = self.kept = self.pruning = None
            if not mode and not self.weight.is_meta:
                weight = self.weight.full_tensor() if isinstance(self.weight, DTensor) else self.weight  # sharded
                self.frozen_mask = top_p_mask(weight.float().softmax(dim=-1), self.spec.top_p)
                self.kept = [row.nonzero().flatten().tolist() for row in self.frozen_mask]
                self.pruning = Pruning(self.kept, self.spec.num_sources)
                self.pruning._indices_on(
                    weight.device
                )  # now: a forward may be recorded, and must not copy from the host
        return self


def _refresh_kept_sources(router: StaticRouter, incompatible_keys) -> None:
    router.train(router.training)


class DynamicRouter(RepresentationRouter):
    """LIMe dynamic (section 3): `A = softmax(N_i P_i^T)`, a distribution per token and head."""

    per_token = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.proj = RoutingLinear(spec.hidden_size, spec.num_heads * spec.num_sources, bias=False)

    def routing_weights(self, current: Tensor) -> Tensor:
        logits = self.proj(current).unflatten(-1, (self.spec.num_heads, self.spec.num_sources))
        return logits.float().softmax(dim=-1)

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        return sources, _own_weight(self.proj, RoutingLinear)


class KeyValueRouter(Router):
    """LIMe KV (the paper's second version): project first, then mix the keys and values of all layers' heads.

    `K~_h = sum_j sum_h' R[h, j G + h'] K_{j,h'}`, the same signed R for V.
    """

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.reads = spec.sources  # the last of them the layer makes itself
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(torch.empty(spec.num_heads, spec.num_sources * spec.num_heads))

    def init_weights(self) -> None:
        if self.spec.layer_idx == 0:
            return
        R = torch.zeros_like(self.weight)
        if self.spec.init == "paper":
            bound = (3 / R.shape[1]) ** 0.5
            R.uniform_(-bound, bound)
        R[:, -self.spec.num_heads :] = torch.eye(self.spec.num_heads, dtype=R.dtype, device=R.device)
        init.copy_(self.weight, R)

    def forward(self, attention_input, gain, k_proj, v_proj, carrier=None, sources=()) -> Routed:
        batch, tokens = attention_input.shape[:2]
        heads, layer_idx = self.spec.num_heads, self.spec.layer_idx
        backend = resolve_backend(self.spec.backend, attention_input.device)
        K, V = k_proj(attention_input), v_proj(attention_input)
        mixed: Sequence[Tensor] = ()
        if backend == "reference":
            own = torch.stack([states.unflatten(-1, (heads, -1)) for states in (K, V)])  # [2, B, T, G, d]
            own = own.permute(3, 0, 1, 2, 4).flatten(1)
            if layer_idx > 0:
                mixed = mix_heads((*sources, own), self.weight).chunk(2, dim=1)
        else:
            has_place = sum(map(len, sources)) == len(self.reads) * heads  # the last rows are for the own heads
            own, carrier = keep_heads(K, V, heads, carrier, sources[-1][-heads:] if has_place else None, layer_idx)
            if layer_idx > 0:
                read = sources if has_place else (*sources, own)
                *mixed, carrier = route_heads(carrier, read, self.reads, self.weight, backend)
        if layer_idx > 0:
            K, V = (states.view(heads, batch, tokens, -1).permute(1, 2, 0, 3) for states in mixed)
        return K, V, carrier, own


ROUTERS: dict[str, type[Router]] = {
    "none": Router,
    "static": StaticRouter,
    "dynamic": DynamicRouter,
    "kv": KeyValueRouter,
}
