"""The router of one layer: what every kind of native routing shares, and how a model of one's own calls it."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from limelm.routing.history import History
from limelm.routing.linear import ModuleArgument, project_by_head
from limelm.routing.norms import check_rms_norm, parameters_of
from limelm.routing.router import Router

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
        if self.mixes_representations and self.has_choice:  # projected are mixes of representations with this gain
            mixed = (gain * own_representation(call)).unsqueeze(-2).expand(-1, -1, self.spec.num_heads, -1)
            own = project_by_head(v_proj, mixed, self.spec.size_of_heads)
        else:
            (own,) = self._own(attention_input, v_proj)
        shape = (*attention_input.shape[:2], -1)
        return output[1].reshape(shape), own.reshape(shape)

    def elements_moved(self, tokens: int) -> int:
        """How many numbers a forward reads and writes at the least, projections of keys and values included."""
        heads, D, head_dim = self.spec.num_heads, self.spec.hidden_size, self.spec.size_of_heads
        rows, columns = self.source_shape()
        sources = len(self.reads) * rows * columns * tokens or D * tokens
        return sources + 2 * heads * head_dim * D + 2 * tokens * heads * head_dim


def own_representation(call: tuple) -> Tensor:
    """X_i / rms(X_i) `[B, T, D]`, the last source of a call of a router that mixes representations."""
    attention_input, sources = call[0], call[5]
    last = sources[-1]
    return last if last.shape == attention_input.shape else last[-1].view_as(attention_input)
