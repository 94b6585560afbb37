"""Hyper-Connections: a Llama with n residual streams and learned connections between them (arXiv 2409.19606).

Every norm inside the layers is a LayerNorm without parameters; the two RMSNorms of a Llama layer are gone. The
connection itself is `limelm.routing.HyperConnection`.
"""

from torch import Tensor
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer

from limelm.models.decoder import HIDDEN_STATES, CausalLM, Decoder, DecoderPreTrainedModel, HiddenState
from limelm.models.hyper_connection.configuration_hyper_connection import HyperConnectionConfig
from limelm.models.llama import MLP, SelfAttention
from limelm.routing import HyperConnection


class HyperConnectionDecoderLayer(GradientCheckpointingLayer):
    """Attention and MLP, each inside its hyper-connection; streams `[B, T, n, D]` in and out."""

    def __init__(self, config: HyperConnectionConfig, layer_idx: int):
        super().__init__()
        self.self_attn = SelfAttention(config, layer_idx)
        self.mlp = MLP(config)
        sizes = (config.hidden_size, config.expansion_rate, layer_idx, config.dynamic)
        self.attn_connection = HyperConnection(*sizes)
        self.mlp_connection = HyperConnection(*sizes)

    def forward(self, hidden_states: Tensor, **kwargs) -> Tensor:
        attention_input, carried, beta = self.attn_connection(hidden_states)
        output, _ = self.self_attn(attention_input, **kwargs)
        hidden_states = self.attn_connection.write(output, carried, beta)
        mlp_input, carried, beta = self.mlp_connection(hidden_states)
        return self.mlp_connection.write(self.mlp(mlp_input), carried, beta)


class HyperConnectionPreTrainedModel(DecoderPreTrainedModel):
    """Configuration and initialization of Hyper-Connection models."""

    config: HyperConnectionConfig
    config_class = HyperConnectionConfig
    _no_split_modules = ["HyperConnectionDecoderLayer"]
    _can_record_outputs = {"hidden_states": HIDDEN_STATES, "attentions": SelfAttention}


class HyperConnectionModel(HyperConnectionPreTrainedModel, Decoder):
    """The decoder without its head.

    Of the hidden states it returns, the embeddings and the last sum of streams lie upstream of the output. Those
    between are made to be looked at: losses on them have gradients, but the output has none with respect to them, as
    each of the n streams goes on by itself.
    """

    layer_class = HyperConnectionDecoderLayer

    def __init__(self, config: HyperConnectionConfig):
        super().__init__(config)
        self.hidden_state = HiddenState()

    def run_layers(self, hidden_states: Tensor, output_hidden_states: bool | None = None, **layer_inputs) -> Tensor:
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_hidden_states:
            self.hidden_state(hidden_states)
        streams = hidden_states.unsqueeze(-2).repeat(1, 1, self.config.expansion_rate, 1)
        for i, layer in self.layers_to_run():
            if output_hidden_states and i > 0:
                self.hidden_state(streams.sum(dim=-2))
            streams = layer(streams, **layer_inputs)
        return self.hidden_state(streams.sum(dim=-2))


class HyperConnectionForCausalLM(HyperConnectionPreTrainedModel, CausalLM, GenerationMixin):
    """Hyper-Connections with a language-modeling head."""

    decoder_class = HyperConnectionModel
