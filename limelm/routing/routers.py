"""LIMe's routers: how a layer makes its keys and values from what all layers so far have left behind.

A router is one class and one line in `ROUTERS` (`build.py`). It decides what a layer leaves for the later ones (its
*source*), what it learns, and how the sources become keys and values. Letters are the paper's: layer i reads the
representations X_0 ... X_i, N is a normalized one, A and R are routing weights, Z a mixed input, K and V keys and
values.

Layer 0 has nothing to choose from. Under every routing it is a plain Llama layer, whose router has no parameters and
only hands its source on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init

from limelm.routing.history import History
from limelm.routing.linear import (
    ModuleArgument,
    RoutingLinear,
    parameter_of,
    project_by_head,
    read_here,
    whole,
)
from limelm.routing.norms import check_rms_norm, parameters_of
from limelm.routing.ops import autograd
from limelm.routing.ops.backends import resolve_backend
from limelm.routing.reference import depth_mix, mix_heads
from limelm.routing.router import Router, RouterSpec
from limelm.routing.top_p import Pruning, can_decide, prune, top_p_mask

Routed = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # K, V, the carrier, and the source for later layers


class LayerRouter(Router):
    """The router of one layer: keys and values in the place of those that the layer would make alone."""

    #: Indices of the sources that the layer is given.
    reads: tuple[int, ...] = ()
    #: Whether it knows more than the reference, whose gradients travel through autograd's graph.
    has_fast_path: ClassVar[bool] = False
    _tried_norm: tuple[int, torch.dtype | None] | None = None

    def forward(
        self,
        attention_input: Tensor,
        gain: Tensor | None,
        k_proj: nn.Module | ModuleArgument,
        v_proj: nn.Module | ModuleArgument,
        carrier: Tensor | None = None,
        sources: Sequence[Tensor] = (),
        query: Tensor | None = None,
    ) -> Routed:
        """Make this layer's keys and values, before RoPE.

        Args:
            attention_input: `[B, T, D]`, the layer's own normalized input: what Q is made from.
            gain: `[D]`, the gain g_i of representations; None where the layer has none.
            k_proj, v_proj: the layer's projections.
            carrier, sources: what `History.open` gives for this layer: the sources that `reads` names.
            query: `[B, T, H d]`, the layer's queries before RoPE, for weights that are made of them.

        Returns:
            K and V `[B, T, G, d]`, the carrier, and this layer's source for the later ones (None where that is its
            normalized input, or where there is none).
        """
        K, V = self._own(attention_input, k_proj, v_proj)
        return K, V, carrier, None

    def _own(self, attention_input: Tensor, *projections: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Project the layer's own input, `[B, T, D]` to `[B, T, G, d]` each."""
        return [projection(attention_input).unflatten(-1, (self.spec.num_heads, -1)) for projection in projections]

    def keys_values(
        self,
        history: History,
        X: Tensor,
        norm: nn.Module,
        k_proj: nn.Module,
        v_proj: nn.Module,
        query: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer in a model of one's own: the whole of what it has to do with routing.

        With activation checkpointing or FSDP around the layer, call `history.open` and `history.close` outside of it
        and this module inside, as `LimeModel.run_layers` does.

        Args:
            history: of this forward.
            X: `[B, T, D]`, the residual stream that the layer is given.
            norm: the RMSNorm whose output k_proj and v_proj are made for; any norm where representations are not mixed.
            k_proj, v_proj: `nn.Linear(D, G d)`.
            query: as for `forward`.

        Returns:
            K and V `[B, T, G, d]`, before RoPE.

        Raises:
            TypeError: without a history; or where representations are mixed, for a norm that is not RMSNorm, or a
                projection that is more than an `nn.Linear`.
            ValueError: for a projection to another number of heads or another size of them.
        """
        if not isinstance(history, History):
            raise TypeError(f"history={type(history).__name__}: give this forward's History, made from the routers")
        self._check_projections(k_proj, v_proj)
        gain, eps = self._gain_and_eps(norm) if self.mixes_representations else (None, 0.0)
        normalized, carrier, *sources = history.open(self.spec.layer_idx, X, eps)
        attention_input = norm(X) if normalized is None or gain is None else gain * normalized
        K, V, carrier, source = self(attention_input, gain, k_proj, v_proj, carrier, tuple(sources), query)
        history.close(self.spec.layer_idx, carrier, source)
        return K, V

    def _check_projections(self, *projections: nn.Module) -> None:
        heads, head_dim = self.spec.num_heads, self.spec.size_of_heads
        for projection in projections:
            features = getattr(projection, "out_features", heads * head_dim)
            if features != heads * head_dim:
                raise ValueError(
                    f"k_proj and v_proj must make {heads * head_dim} features, for num_heads={heads} key/value heads "
                    f"of head_dim={head_dim}, not {features}; make_routers takes both sizes"
                )

    def _gain_and_eps(self, norm: nn.Module) -> tuple[Tensor, float]:
        """The parameters of an RMSNorm, which is tried out once."""
        gain, eps = parameters_of(norm)
        tried = (id(norm), gain.dtype)
        if self._tried_norm != tried and not torch.compiler.is_compiling():
            check_rms_norm(norm, gain, eps)
            self._tried_norm = tried
        return gain, eps

    def check_place(self, index: int) -> None:
        """Refuse a layer that was taken out of its place: a router knows how many sources it had there.

        Raises:
            ValueError: with the two places.
        """
        if self.spec.layer_idx != index and self.reads:
            raise ValueError(
                f"layer {index} was built as layer {self.spec.layer_idx} and routes over the {len(self.reads)} "
                "sources that it had there; layers can be cut off at the end, but not taken out or moved"
            )

    def source_shape(self) -> tuple[int, int]:
        """Rows of the source that this layer leaves, and columns per token, `[r, c]`; (0, 0) for other sources."""
        return 0, 0

    def values_of_call(self, call: tuple, output: Routed) -> tuple[Tensor, Tensor] | None:
        attention_input, gain, _, v_proj = call[:4]
        own = attention_input
        if self.mixes_representations and self.has_choice:  # projected are mixes of representations with this gain
            own = gain * own_representation(call)
        values = output[1].reshape(*attention_input.shape[:2], -1)
        return values, nn.functional.linear(own, v_proj.weight, v_proj.bias)

    def elements_moved(self, tokens: int) -> int:
        """How many numbers a forward reads and writes at the least, projections of keys and values included."""
        heads, D, head_dim = self.spec.num_heads, self.spec.hidden_size, self.spec.size_of_heads
        rows, columns = self.source_shape()
        sources = len(self.reads) * rows * columns * tokens or D * tokens
        return sources + 2 * heads * head_dim * D + 2 * tokens * heads * head_dim


class PlainRouter(LayerRouter):
    """Plain Llama (`routing="none"`): keys and values from the layer's own input, nothing handed on."""

    routes = False
    options = frozenset()
    has_fast_path = True


class RepresentationRouter(LayerRouter):
    """Mix first, then project: each head's input is a convex combination of normalized representations.

    A subclass gives `routing_weights`. Where these are the same for all tokens, that is all; where they depend on
    tokens, it says so (`depends_on_tokens`) and runs by the formulas (`has_fast_path = False`).
    """

    mixes_representations = True
    has_fast_path = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.reads = spec.source_ids

    def source_shape(self) -> tuple[int, int]:
        return 1, self.spec.hidden_size

    def routing_weights(self, current: Tensor | None = None) -> Tensor:
        """A, `[G, n]`; or, from the layer's own normalized input N_i `[B, T, D]`, `[B, T, G, n]`."""
        raise NotImplementedError

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        """The fast operation's arguments: sources, and A `[G, n]` (or, per token, the projection P `[G n, D]`)."""
        return sources, self.routing_weights()

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
            Z = gain * depth_mix(sources, A, self.kept())
            K, V = (project_by_head(projection, Z, self.spec.size_of_heads) for projection in (k_proj, v_proj))
            return K, V, None, None
        read, weights = self.operands(sources)
        k_proj, v_proj = read_here(k_proj), read_here(v_proj)
        projections = parameter_of(k_proj), parameter_of(v_proj)
        K, V, carrier = autograd.mix_project(
            carrier, read, self.reads, weights, gain, *projections, heads, self.depends_on_tokens, backend
        )
        K, V = tokens_first(K, V, attention_input)
        if k_proj.bias is not None:
            biases = (parameter_of(projection, "bias") for projection in (k_proj, v_proj))
            K, V = (x + bias.to(x.dtype).unflatten(0, (heads, -1)) for x, bias in zip((K, V), biases, strict=True))
        return K, V, carrier, None


class StaticRouter(RepresentationRouter):
    """LIMe static (section 3): `A = softmax(w)`, one learned distribution over the sources per head.

    With `top_p` the smallest of the current weights are dropped (section 5.4). In evaluation mode, without gradients, a
    dropped source costs nothing.
    """

    options = frozenset({"routing_sources", "routing_top_p"})
    _pruning: Pruning | None = None  # made for the weights of the last forward in which they could decide what is read

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(torch.empty(spec.num_heads, spec.num_sources))

    def init_weights(self, std: float = 0.02) -> None:
        if self.spec.layer_idx > 0:
            init.normal_(self.weight, mean=0.0, std=0.1)

    def routing_weights(self, current: Tensor | None = None) -> Tensor:
        return self._distributions(self.weight)

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        return self._distributions(whole(self.weight))

    def _distributions(self, weight: Tensor) -> Tensor:
        A = weight.float().softmax(dim=-1)
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
        pruning = self._pruning  # of this forward: another thread may put its own
        if pruning is None or not pruning.is_of(self.weight):
            self._pruning = pruning = Pruning(self.weight, self.spec.top_p)
        return pruning


class DynamicRouter(RepresentationRouter):
    """LIMe dynamic (section 3): `A = softmax(N_i P_i^T)`, a distribution per token and head."""

    depends_on_tokens = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.proj = RoutingLinear(spec.hidden_size, spec.num_heads * spec.num_sources, bias=False)

    def routing_weights(self, current: Tensor | None = None) -> Tensor:
        logits = self.proj(current).unflatten(-1, (self.spec.num_heads, self.spec.num_sources))
        return logits.float().softmax(dim=-1)

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        return sources, parameter_of(read_here(self.proj))

    def directions(self, layer: nn.Module):
        return layer.routing_layernorm, self.proj.weight.detach().float()


class KeyValueRouter(LayerRouter):
    """LIMe KV (the paper's second version): project first, then mix the keys and values of all layers' heads.

    `K~_h = sum_j sum_h' R[h, j G + h'] K_{j,h'}`, the same signed R for V.
    """

    options = frozenset({"routing_sources", "routing_init"})
    has_fast_path = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.reads = spec.source_ids  # the last of them the layer makes itself
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(torch.empty(spec.num_heads, spec.num_sources * spec.num_heads))

    def init_weights(self, std: float = 0.02) -> None:
        if self.spec.layer_idx == 0:
            return
        R = torch.zeros_like(self.weight)
        if self.spec.init == "paper":
            bound = (3 / R.shape[1]) ** 0.5
            R.uniform_(-bound, bound)
        R[:, -self.spec.num_heads :] = torch.eye(self.spec.num_heads, dtype=R.dtype, device=R.device)
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
                K, V = mix_heads((*sources, own), self.weight).chunk(2, dim=1)
        else:
            rows = sum(source.shape[0] for source in sources)
            has_place = rows == len(self.reads) * heads  # the last rows are for the own heads
            place = sources[-1][-heads:] if has_place else None
            own, carrier = autograd.keep_heads(K, V, carrier, place, layer_idx)
            if layer_idx > 0:
                read = sources if has_place else (*sources, own)
                K, V, carrier = autograd.mix_heads(carrier, read, self.reads, self.weight, backend)
        if layer_idx > 0:
            K, V = tokens_first(K, V, attention_input)
        return K, V, carrier, own


def tokens_first(K: Tensor, V: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values `[G, B T d]` as views `[B, T, G, d]`, for a layer's input `[B, T, D]`."""
    shape = (len(K), *like.shape[:2], -1)
    return K.view(shape).permute(1, 2, 0, 3), V.view(shape).permute(1, 2, 0, 3)


def own_representation(call: tuple) -> Tensor:
    """X_i / rms(X_i) `[B, T, D]`, the last source of a call of a router that mixes representations."""
    attention_input, sources = call[0], call[5]
    last = sources[-1]
    return last if last.shape == attention_input.shape else last[-1].view_as(attention_input)
