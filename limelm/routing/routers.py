"""LIMe's routers: how a layer makes its keys and values from what all layers so far have left behind.

A router is one class and one line in `ROUTERS` (`build.py`). It decides what a layer leaves for the later ones (its
*source*), what it learns, and how the sources become keys and values. Letters are the paper's: layer i reads the
representations X_0 ... X_i, N is a normalized one, A and R are routing weights, Z a mixed input, K and V keys and
values.

Layer 0 has nothing to choose from. Under every routing it is a plain Llama layer, whose router has no parameters and
only hands its source on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from transformers import initialization as init

from limelm.routing.layer_router import LayerRouter, Routed, own_representation
from limelm.routing.linear import RoutingLinear, parameter_of, project_by_head, read_here, whole
from limelm.routing.ops import autograd
from limelm.routing.ops.backends import resolve_backend
from limelm.routing.reference import depth_mix, mix_heads, mix_heads_by_token
from limelm.routing.router import RouterSpec
from limelm.routing.top_p import Pruning, can_decide, prune, top_p_mask


class PlainRouter(LayerRouter):
    """Plain Llama (`routing="none"`): keys and values from the layer's own input, nothing handed on."""

    routes = False
    options = frozenset()
    has_fast_path = True


#: What distributions over sources may be made with.
DISTRIBUTIONS = frozenset(
    {"routing_sources", "routing_share_kv", "routing_share_heads", "routing_temperature", "routing_trainable"}
)


class RepresentationRouter(LayerRouter):
    """Mix first, then project: each head's input is a convex combination of normalized representations.

    A subclass gives `routing_weights`. Where these are the same for all tokens, that is all; where they depend on
    tokens, it says so (`depends_on_tokens`) and runs by the formulas (`has_fast_path = False`).

    With weights of their own for keys and for values (S = 2 sets instead of one) there are 2 G mixes: Z of the keys'
    heads first, then of the values'.
    """

    reads_what = (
        "A source is the residual stream that a layer is given, normalized; each head's keys and values are made from "
        "a mix of them."
    )
    mixes_representations = True
    has_fast_path = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if not spec.share_kv and spec.size_of_heads % 2:
            raise ValueError(f"head_dim={spec.size_of_heads} is odd; share_kv=False needs heads that have two halves")
        if spec.layer_idx > 0:
            self.reads = spec.source_ids

    def source_shape(self) -> tuple[int, int]:
        return 1, self.spec.hidden_size

    def routing_weights(self, current: Tensor | None = None) -> Tensor:
        """A, `[S G, n]`; or, from the layer's own normalized input N_i `[B, T, D]`, `[B, T, S G, n]`."""
        raise NotImplementedError

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        """The fast operation's arguments: sources, and A `[S G, n]` (or, per token, the projection P `[S G n, D]`)."""
        return sources, self.routing_weights()

    def for_each_head(self, values: Tensor, dim: int = 0) -> Tensor:
        """Repeat the entries of distributions over the sources for each head that reads by them."""
        return values.repeat_interleave(self.spec.num_heads, dim=dim) if self.spec.share_heads else values

    def tempered(self, logits: Tensor) -> Tensor:
        """Divide logits, or the rows that make them, by the temperature of their softmax."""
        return logits if self.spec.temperature == 1 else logits / self.spec.temperature

    def kept(self) -> list[list[int]] | None:
        """The sources that each head reads now; None: all."""
        return None

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        if not self.depends_on_tokens:
            return whole(self.routing_weights())
        if call is None:
            raise ValueError("the weights depend on the tokens: give the arguments of a call")
        return self.routing_weights(call[1] * own_representation(call))

    def forward(self, attention_input, gain, k_proj, v_proj, carrier=None, sources=(), query=None) -> Routed:
        if not self.reads:
            return super().forward(attention_input, gain, k_proj, v_proj, carrier)
        backend = resolve_backend(self.spec.backend, attention_input.device, self.has_fast_path)
        heads = self.spec.num_heads
        if backend == "reference":
            # N_j = gain * normalized X_j; the gain is the same for all sources, so it is applied once, to their mix.
            A = self.routing_weights(gain * sources[-1]).to(sources[-1].dtype)
            Z = gain * self.mixed(partial(depth_mix, kept=None if self.change else self.kept()), sources, A)
            sets = ((k_proj, Z[..., :heads, :]), (v_proj, Z[..., -heads:, :]))  # the same where they share weights
            K, V = (project_by_head(projection, mixed, self.spec.size_of_heads) for projection, mixed in sets)
            return K, V, None, None
        read, weights = self.operands(sources)
        k_proj, v_proj = read_here(k_proj), read_here(v_proj)
        projections = parameter_of(k_proj), parameter_of(v_proj)
        if not self.spec.share_kv:
            projections = _as_halves(*projections, heads)
        mixes = heads * self.spec.num_sets
        K, V, carrier = autograd.mix_project(
            carrier, read, self.reads, weights, gain, *projections, mixes, self.depends_on_tokens, backend
        )
        if not self.spec.share_kv:
            K, V = torch.cat((K, V), dim=-1).chunk(2)
        K, V = tokens_first(K, V, attention_input)
        K, V = (_with_bias(x, projection, heads) for x, projection in ((K, k_proj), (V, v_proj)))
        return K, V, carrier, None


def _with_bias(x: Tensor, projection: nn.Module, heads: int) -> Tensor:
    """Keys or values `[B, T, G, d]` with the bias of their projection, if it has one."""
    if projection.bias is None:
        return x
    return x + parameter_of(projection, "bias").to(x.dtype).unflatten(0, (heads, -1))


class StaticRouter(RepresentationRouter):
    """LIMe static (section 3): `A = softmax(w)`, one learned distribution over the sources per head.

    With `top_p` the smallest of the current weights are dropped (section 5.4). In evaluation mode, without gradients, a
    dropped source costs nothing.
    """

    options = DISTRIBUTIONS | {"routing_top_p"}
    inits = ("paper", "random")
    _pruning: Pruning | None = None  # made for the weights of the last forward in which they could decide what is read

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(torch.empty(spec.num_distributions, spec.num_sources))

    def init_weights(self, std: float = 0.02) -> None:
        if self.spec.layer_idx > 0:
            init.normal_(self.weight, mean=0.0, std=0.1 if self.spec.init == "paper" else 1.0)

    def routing_weights(self, current: Tensor | None = None) -> Tensor:
        return self._distributions(self._logits(self.weight))

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        return self._distributions(self._logits(whole(self.weight)))

    def _logits(self, weight: Tensor) -> Tensor:
        """`[S G, n]`."""
        return self.for_each_head(self.tempered(weight))

    def _distributions(self, logits: Tensor) -> Tensor:
        A = logits.float().softmax(dim=-1)
        return A if self.spec.top_p is None else prune(A, top_p_mask(A, self.spec.top_p))

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        pruning = self.pruning()
        return (sources, self.routing_weights()) if pruning is None else pruning.operands(sources)

    def kept(self) -> list[list[int]] | None:
        pruning = self.pruning()
        return None if pruning is None else pruning.kept

    def pruning(self) -> Pruning | None:
        """The pruning by the current weights; None where all sources are read.

        The weights are compared each time: in-place changes need not leave a trace (`weight.data.copy_`).
        """
        if self.spec.top_p is None or self.training or torch.is_grad_enabled() or not can_decide(self.weight):
            return None
        pruning, logits = self._pruning, self._logits(self.weight)  # of this forward: another thread may put its own
        if pruning is None or not pruning.is_of(logits):
            self._pruning = pruning = Pruning(logits, self.spec.top_p)
        return pruning


class DynamicRouter(RepresentationRouter):
    """LIMe dynamic (section 3): `A = softmax(N_i P_i^T)`, a distribution per token and head."""

    depends_on_tokens = True
    options = DISTRIBUTIONS
    inits = ("paper", "random")

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            # Its input has D coordinates of about one: so random logits are N(0, 1), as static routing's.
            std = spec.hidden_size**-0.5 if spec.init == "random" else None
            rows = spec.num_distributions * spec.num_sources
            self.proj = RoutingLinear(spec.hidden_size, rows, std=std, trainable=spec.trainable)

    def routing_weights(self, current: Tensor | None = None) -> Tensor:
        logits = self.tempered(self.proj(current).unflatten(-1, (-1, self.spec.num_sources)))
        return self.for_each_head(logits.float().softmax(dim=-1), dim=-2)

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        return sources, self._rows(parameter_of(read_here(self.proj)))

    def directions(self, layer: nn.Module):
        return layer.routing_layernorm, self._rows(self.proj.weight.detach().float())

    def _rows(self, P: Tensor) -> Tensor:
        """`[S G n, D]`, with which logits are `N_i P^T`."""
        if self.spec.share_heads:
            P = self.for_each_head(P.unflatten(0, (-1, self.spec.num_sources))).flatten(0, 1)
        return self.tempered(P)


class KeyValueRouter(LayerRouter):
    """LIMe KV (the paper's second version): project first, then mix the keys and values of all layers' heads.

    `K~_h = sum_j sum_h' R[h, j G + h'] K_{j,h'}`, the same signed R for V, or G further rows of it.
    """

    reads_what = "A source is the keys and values that a layer makes; each head's are a mix of all heads' of them."
    makes_own_source = True
    options = frozenset({"routing_sources", "routing_share_kv", "routing_trainable"})
    inits = ("paper", "identity")
    has_fast_path = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.reads = spec.source_ids  # the last of them the layer makes itself
        if spec.layer_idx > 0:
            rows = spec.num_sets * spec.num_heads
            self.weight = nn.Parameter(torch.empty(rows, spec.num_sources * spec.num_heads))

    def init_weights(self, std: float = 0.02) -> None:
        if self.spec.layer_idx == 0:
            return
        R = torch.zeros_like(self.weight)
        if self.spec.init == "paper":
            bound = (3 / R.shape[1]) ** 0.5
            R.uniform_(-bound, bound)
        own = torch.eye(self.spec.num_heads, dtype=R.dtype, device=R.device)
        R[:, -self.spec.num_heads :] = own.repeat(self.spec.num_sets, 1)
        init.copy_(self.weight, R)

    def source_shape(self) -> tuple[int, int]:
        return self.spec.num_heads, 2 * self.spec.size_of_heads

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        return whole(self.weight).unflatten(1, (-1, self.spec.num_heads))

    def forward(self, attention_input, gain, k_proj, v_proj, carrier=None, sources=(), query=None) -> Routed:
        heads, layer_idx = self.spec.num_heads, self.spec.layer_idx
        backend = resolve_backend(self.spec.backend, attention_input.device)
        K, V = self._own(attention_input, k_proj, v_proj)
        if backend == "reference":
            own = torch.stack((K, V))  # [2, B, T, G, d]
            own = own.permute(3, 0, 1, 2, 4).flatten(1)
            if layer_idx > 0:
                K, V = self._mixed((*sources, own), attention_input.shape[:2]).chunk(2, dim=1)
        else:
            rows = sum(source.shape[0] for source in sources)
            has_place = rows == len(self.reads) * heads  # the last rows are for the own heads
            place = sources[-1][-heads:] if has_place else None
            own, carrier = autograd.keep_heads(K, V, carrier, place, layer_idx)
            if layer_idx > 0:
                read = sources if has_place else (*sources, own)
                K, V, carrier = autograd.mix_heads(carrier, read, self.reads, self.weight, backend)
        if layer_idx > 0:
            if not self.spec.share_kv:
                K, V = K[:heads], V[heads:]  # each was made with both sets' weights
            K, V = tokens_first(K, V, attention_input)
        return K, V, carrier, own

    def _mixed(self, sources: Sequence[Tensor], tokens: torch.Size) -> Tensor:
        """The mixed heads `[S G, 2 B T d]` of sources `[G, 2 B T d]`, for `[B, T]` tokens; keys come first."""
        if self.change is None:
            return mix_heads(sources, self.weight)
        by_token = [source.unflatten(1, (2, *tokens, -1)).permute(2, 3, 0, 1, 4).flatten(3) for source in sources]
        R = self.weight.unflatten(1, (-1, self.spec.num_heads))
        mixed = self.mixed(mix_heads_by_token, by_token, R).unflatten(3, (2, -1))
        return mixed.permute(2, 3, 0, 1, 4).flatten(1)


def tokens_first(K: Tensor, V: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values `[G, B T d]` as views `[B, T, G, d]`, for a layer's input `[B, T, D]`."""
    shape = (len(K), *like.shape[:2], -1)
    return K.view(shape).permute(1, 2, 0, 3), V.view(shape).permute(1, 2, 0, 3)


def _as_halves(k_weight: Tensor, v_weight: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Projections of mixes that are apart for keys and values, for an operation that projects each mix twice.

    The heads of both, `[G d, D]` each, become 2 G, the keys' first, which are projected to their first and their second
    half: `[2 G d / 2, D]` each.
    """
    by_head = torch.cat([weight.unflatten(0, (heads, -1)) for weight in (k_weight, v_weight)])  # [2 G, d, D]
    first, second = by_head.chunk(2, dim=1)
    return first.flatten(0, 1), second.flatten(0, 1)
