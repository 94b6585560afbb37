"""Hyper-Connections: a Llama with n residual streams and learned connections between them (arXiv 2409.19606).

Every norm inside the layers is a LayerNorm without parameters, in the connections, which are
`limelm.routing.HyperConnection`; the two RMSNorms of a Llama layer are gone. With `connection="mhc"` a layer has them,
and `limelm.routing.ManifoldConnection` around its halves (arXiv 2512.24880).
"""

from torch import Tensor, nn
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer

from limelm.models.decoder import HIDDEN_STATES, CausalLM, Decoder, DecoderPreTrainedModel, HiddenState
from limelm.models.hyper_connection.configuration_hyper_connection import HyperConnectionConfig
from limelm.models.llama import MLP, RMSNorm, SelfAttention
from limelm.routing import HyperConnection, ManifoldConnection, ManifoldReadout


class HyperConnectionDecoderLayer(GradientCheckpointingLayer):
    """Attention and MLP, each inside its hyper-connection; streams `[B, T, n, D]` in and out."""

    norms_its_input = False  # it is several streams

    def __init__(self, config: HyperConnectionConfig, layer_idx: int):
        super().__init__()
        self.self_attn = SelfAttention(config, layer_idx)
        self.mlp = MLP(config)
        D, n, eps = config.hidden_size, config.expansion_rate, config.rms_norm_eps
        self.attn_connection: HyperConnection | ManifoldConnection
        self.mlp_connection: HyperConnection | ManifoldConnection
        self.input_layernorm: nn.Module
        self.post_attention_layernorm: nn.Module
        if config.connection == "mhc":
            self.attn_connection = ManifoldConnection(D, n, site=2 * layer_idx)
            self.mlp_connection = ManifoldConnection(D, n, site=2 * layer_idx + 1)
            self.input_layernorm, self.post_attention_layernorm = RMSNorm(D, eps), RMSNorm(D, eps)
        else:  # the connections normalize what is read
            self.attn_connection = HyperConnection(D, n, layer_idx, config.dynamic)
            self.mlp_connection = HyperConnection(D, n, layer_idx, config.dynamic)
            self.input_layernorm, self.post_attention_layernorm = nn.Identity(), nn.Identity()

    def forward(self, hidden_states: Tensor, **kwargs) -> Tensor:
        attention_input, carried, beta = self.attn_connection(hidden_states)
        output, _ = self.self_attn(self.input_layernorm(attention_input), **kwargs)
        hidden_states = self.attn_connection.write(output, carried, beta)
        mlp_input, carried, beta = self.mlp_connection(hidden_states)
        output = self.mlp(self.post_attention_layernorm(mlp_input))
        return self.mlp_connection.write(output, carried, beta)


class SumOfStreams(nn.Module):
    """The end of Hyper-Connections' streams `[B, T, n, D]`: their sum `[B, T, D]`."""

    def forward(self, streams: Tensor) -> Tensor:
        return streams.sum(dim=-2)


class HyperConnectionPreTrainedModel(DecoderPreTrainedModel):
    """Configuration and initialization of Hyper-Connection models."""

    config: HyperConnectionConfig
    _no_split_modules = ["HyperConnectionDecoderLayer"]
    _can_record_outputs = {"hidden_states": HIDDEN_STATES, "attentions": SelfAttention}


class HyperConnectionModel(HyperConnectionPreTrainedModel, Decoder):
    """The decoder without its head.

    Of the hidden states it returns, the embeddings and what is read out of the last streams lie upstream of the output.
    Those between are made to be looked at: losses on them have gradients, but the output has none with respect to them,
    as each of the n streams goes on by itself.
    """

    layer_class = HyperConnectionDecoderLayer

    def __init__(self, config: HyperConnectionConfig):
        super().__init__(config)
        if config.connection == "mhc":
            sites = 2 * config.num_hidden_layers
            self.output_connection: nn.Module = ManifoldReadout(config.hidden_size, config.expansion_rate, sites)
        else:
            self.output_connection = SumOfStreams()
        self.hidden_state = HiddenState()

    def run_layers(self, hidden_states: Tensor, output_hidden_states: bool | None = None, **layer_inputs) -> Tensor:
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_hidden_states:
            self.hidden_state(hidden_states)
        streams = hidden_states.unsqueeze(-2).repeat(1, 1, self.config.expansion_rate, 1)
        for i, layer in self.layers_to_run():
            if output_hidden_states and i > 0:
                self.hidden_state(self.output_connection(streams))
            streams = layer(streams, **layer_inputs)
        return self.hidden_state(self.output_connection(streams))


class HyperConnectionForCausalLM(HyperConnectionPreTrainedModel, CausalLM, GenerationMixin):
    """Hyper-Connections with a language-modeling head."""

    decoder_class = HyperConnectionModel
