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
from transformers import initialization as init

from limelm.routing.history import keep_heads
from limelm.routing.linear import HeadwiseLinear, Projection, RoutingLinear, parameter_of
from limelm.routing.ops.autograd import route_heads, route_representations
from limelm.routing.ops.backends import resolve_backend
from limelm.routing.reference import mix_heads, mix_representations
from limelm.routing.sources import sources_of_layer
from limelm.routing.top_p import Pruning, can_decide, prune, top_p_mask

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

    def kept(self) -> list[list[int]] | None:
        """For each head the sources that are read now; None: all."""
        return None

    def forward(self, attention_input, gain, k_proj, v_proj, carrier=None, sources=()) -> Routed:
        if not self.reads:
            return k_proj(attention_input), v_proj(attention_input), carrier, None
        backend = resolve_backend(self.spec.backend, attention_input.device)
        if backend == "reference":
            # N_j = gain * normalised X_j; the gain is the same for all sources, so it is applied once, to their mix.
            A = self.routing_weights(gain * sources[-1]).to(sources[-1].dtype)
            Z = gain * mix_representations(sources, A, self.kept())
            return k_proj(Z), v_proj(Z), None, None
        read, weights = self.operands(sources)
        projections = [_read_here(projection, HeadwiseLinear) for projection in (k_proj, v_proj)]
        k_weight, v_weight = (parameter_of(projection) for projection in projections)
        heads = self.spec.num_heads
        K, V, carrier = route_representations(
            carrier, read, self.reads, weights, gain, k_weight, v_weight, heads, self.per_token, backend
        )
        shape = (heads, *attention_input.shape[:2], -1)
        K, V = (states.view(shape).permute(1, 2, 0, 3) for states in (K, V))
        if projections[0].bias is not None:
            biases = (parameter_of(projection, "bias") for projection in projections)
            K, V = (x + bias.unflatten(0, (heads, -1)) for x, bias in zip((K, V), biases, strict=True))
        return K, V, carrier, None


def _read_here(projection: nn.Module | Projection, kind: type[RoutingLinear]) -> nn.Module:
    """A projection whose parameters the routing reads itself instead of calling it, if nothing is lost by that."""
    if isinstance(projection, Projection):
        projection = projection.module
    passed_over = None
    if type(projection) is not kind:
        passed_over = f"{type(projection).__name__} in the place of {kind.__name__}"
    elif "forward" in projection.__dict__ and not _is_accelerates(projection):
        passed_over = "a forward put in the place of the module's own"
    elif any(getattr(projection, f"_{name}_hooks") for name in ("forward", "forward_pre", "backward", "backward_pre")):
        passed_over = "the hooks on a module"
    if passed_over:
        raise TypeError(
            f"routing reads the weights of k_proj, v_proj and router.proj itself and would pass over {passed_over}; "
            "leave the modules as they are, or build the model with routing_backend='reference', which calls them"
        )
    return projection


def _is_accelerates(module: nn.Module) -> bool:
    """Whether the `forward` set on a module is the one that accelerate puts around its own to bring its parameters."""
    wrapped = module.__dict__.get("_old_forward") if "_hf_hook" in module.__dict__ else None
    return getattr(wrapped, "__func__", None) is type(module).forward


class StaticRouter(RepresentationRouter):
    """LIMe static (section 3): `A = softmax(w)`, one learned distribution over the sources per head.

    With `top_p` the smallest of the current weights are dropped (section 5.4). In evaluation mode, without gradients, a
    dropped source costs nothing.
    """

    _pruning: Pruning | None = None  # made for the weights of the last forward in which they could decide what is read

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(torch.empty(spec.num_heads, spec.num_sources))

    def init_weights(self) -> None:
        if self.spec.layer_idx > 0:
            init.normal_(self.weight, mean=0.0, std=0.1)

    def routing_weights(self, current: Tensor | None = None) -> Tensor:
        A = self.weight.float().softmax(dim=-1)
        return A if self.spec.top_p is None else prune(A, top_p_mask(A, self.spec.top_p))

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        pruning = self.pruning()
        return (sources, self.routing_weights()) if pruning is None else pruning.operands(sources)

    def kept(self) -> list[list[int]] | None:
        pruning = self.pruning()
        return None if pruning is None else pruning.kept

    def pruning(self) -> Pruning | None:
        """What is left to read of the sources by the current weights; None where all are read.

        The weights are compared each time: in-place changes need not leave a trace (`weight.data.copy_`).
        """
        if self.spec.top_p is None or self.training or torch.is_grad_enabled() or not can_decide(self.weight):
            return None
        pruning = self._pruning  # of this forward: another thread may put its own
        if pruning is None or not pruning.is_of(self.weight):
            self._pruning = pruning = Pruning(self.weight, self.spec.top_p)
        return pruning


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
        return sources, parameter_of(_read_here(self.proj, RoutingLinear))


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
