"""The common parts of models with another connection over depth: Llama's layers, between which sources are mixed.

A *source* is what a layer left for later ones: the embeddings, a layer's output, or what a sublayer adds. The decoder
owns the list of them. A layer is given the sources that it reads, as arguments of their own, and returns what it adds;
it changes nothing that it is given. So it can be recomputed (activation checkpointing) and sharded (FSDP2), and several
forwards can be under way at once.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Self

from torch import Tensor, nn
from transformers import LlamaConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from limelm.models.decoder import HIDDEN_STATES, Decoder, DecoderPreTrainedModel, HiddenState
from limelm.models.llama import MLP, RMSNorm, SelfAttention
from limelm.routing import CONNECTIONS, DepthModule, DepthReader


class Connection(DepthReader):
    """The parameters by which one place of a model mixes its sources: they learn as the rest, and do not decay."""

    rule = CONNECTIONS

    def at(self, place: int, source_ids: Iterable[int], *weight_sets: str) -> Self:
        """Say where in the model it stands, for those who show its `effective_weights`; its formulas do not ask.

        Args:
            place, source_ids, weight_sets: as in `DepthReader`. A sum of sources has the number of the newest in it.
        """
        self.place, self.source_ids, self.weight_sets = place, tuple(source_ids), weight_sets
        return self


class ConnectedLayer(GradientCheckpointingLayer):
    """Llama's attention and MLP with their norms; a subclass has the connection, and a `forward` that uses it.

    Attributes:
        reads: the numbers of the sources that the layer is given, oldest first; all that there are where it is None.
        adds_from: the number of the first source that it adds. What is there from this number on, it has taken in.
        norms_its_input: whether the norm before attention is given the residual stream as the layer is.
    """

    reads: Sequence[int] | None = None
    norms_its_input = False
    adds_from: int

    def __init__(self, config: LlamaConfig, layer_idx: int):
        super().__init__()
        self.self_attn = SelfAttention(config, layer_idx)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.layer_idx = layer_idx
        self.adds_from = layer_idx + 1

    def check_place(self, index: int) -> None:
        """Refuse a layer that was taken out of its place, where it had other sources.

        Raises:
            ValueError: with the two places.
        """
        if self.layer_idx != index:
            raise ValueError(
                f"layer {index} was built as layer {self.layer_idx} and reads the sources that it had there; layers "
                "can be cut off at the end, but not taken out or moved"
            )

    def attention_delta(self, hidden_states: Tensor, **layer_inputs: Any) -> Tensor:
        """The delta of the attention sublayer, which it adds to a residual stream `[B, T, D]`."""
        return self.self_attn(self.input_layernorm(hidden_states), **layer_inputs)[0]

    def mlp_delta(self, hidden_states: Tensor) -> Tensor:
        """The delta of the MLP sublayer, which it adds to a residual stream `[B, T, D]`."""
        return self.mlp(self.post_attention_layernorm(hidden_states))

    def block(self, hidden_states: Tensor, **layer_inputs: Any) -> Tensor:
        """Llama's whole layer, `[B, T, D]` to `[B, T, D]`."""
        hidden_states = hidden_states + self.attention_delta(hidden_states, **layer_inputs)
        return hidden_states + self.mlp_delta(hidden_states)

    def sources_to_read(self, sources: list[Tensor]) -> list[Tensor]:
        """The sources of the decoder that this layer is given."""
        return sources if self.reads is None else [sources[j] for j in self.reads]


class CopiedRMSNorm(RMSNorm, DepthModule):
    """An RMSNorm that starts with the gain of another one, such as that of a trained Llama.

    Args:
        other: the norm whose gain it starts with; it is no part of this module.
    """

    def __init__(self, hidden_size: int, eps: float, other: RMSNorm):
        super().__init__(hidden_size, eps)
        self.other = (other,)

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to the other norm's gain."""
        init.copy_(self.weight, self.other[0].weight)


class SeparateInputsLayer(ConnectedLayer):
    """A layer whose keys and values are made from other states than its queries, each through a norm of its own.

    Args:
        separate: whether it has these norms; otherwise it takes one state for all, as Llama.
    """

    def __init__(self, config: LlamaConfig, layer_idx: int, separate: bool = True):
        super().__init__(config, layer_idx)
        if separate:
            self.key_layernorm = CopiedRMSNorm(config.hidden_size, config.rms_norm_eps, self.input_layernorm)
            self.value_layernorm = CopiedRMSNorm(config.hidden_size, config.rms_norm_eps, self.input_layernorm)

    def attention_delta(
        self,
        hidden_states: Tensor,
        key_states: Tensor | None = None,
        value_states: Tensor | None = None,
        **layer_inputs: Any,
    ) -> Tensor:
        """The delta of the attention sublayer, made from the states `[B, T, D]` of queries, keys and values."""
        if key_states is not None and value_states is not None:
            layer_inputs["key_states"] = self.key_layernorm(key_states)
            layer_inputs["value_states"] = self.value_layernorm(value_states)
        return super().attention_delta(hidden_states, **layer_inputs)


class ConnectedPreTrainedModel(DecoderPreTrainedModel):
    """The base of models whose layers take a residual stream first and return it first, which Hugging Face records."""

    _can_record_outputs = {"hidden_states": ConnectedLayer, "attentions": SelfAttention}


class ConnectedModel(Decoder):
    """A decoder with a residual stream beside its sources."""

    layer_class: type[nn.Module]

    def first_source(self, embeddings: Tensor) -> Tensor:
        """The source that there is before the first layer, `[B, T, D]`."""
        return embeddings

    def run_layers(self, hidden_states: Tensor, **layer_inputs: Any) -> Tensor:
        sources = [self.first_source(hidden_states)]
        for i, layer in self.layers_to_run():
            layer.check_place(i)
            hidden_states, *added = layer(hidden_states, *layer.sources_to_read(sources), **layer_inputs)
            sources[layer.adds_from :] = added
        return hidden_states


class StreamlessPreTrainedModel(DecoderPreTrainedModel):
    """The base of models whose layers take and return sources alone, and hand over what their attention reads."""

    _can_record_outputs = {"hidden_states": HIDDEN_STATES, "attentions": SelfAttention}


class StreamlessModel(ConnectedModel):
    """A decoder without a residual stream: its layers, and the final norm by `output_connection`, read the sources.

    Hidden states are the embeddings, what the attention of each further layer reads (its layer calls a `HiddenState`
    with it), and what the final norm reads.
    """

    output_connection: nn.Module

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.hidden_state = HiddenState()

    def run_layers(self, hidden_states: Tensor, **layer_inputs: Any) -> Tensor:
        sources = [self.hidden_state(hidden_states)]
        for i, layer in self.layers_to_run():
            layer.check_place(i)
            sources[layer.adds_from :] = layer(*layer.sources_to_read(sources), **layer_inputs)
        return self.hidden_state(self.output_connection(*sources))


# Sources that are sums of sublayers' deltas. Block b has the sublayers b S ... b S + S - 1 and is source b + 1.


def with_delta(sources: tuple[Tensor, ...], delta: Tensor, sublayer: int, block_size: int) -> tuple[Tensor, ...]:
    """Sources with a sublayer's delta: a new one where it begins a block, else part of the newest, its block's sum."""
    if sublayer % block_size == 0:
        return (*sources, delta)
    running_sum = sources[-1].to(sources[0].dtype)  # as wide as the embedding, under autocast too
    return (*sources[:-1], running_sum + delta)


def first_of_layer(layer_idx: int, block_size: int) -> int:
    """The number of the source, a block's sum, to which a layer's first sublayer adds."""
    return 1 + 2 * layer_idx // block_size
