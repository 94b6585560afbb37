"""Hyper-Connections: a Llama with n residual streams and learned connections between them (arXiv 2409.19606).

Every norm inside the layers is a LayerNorm without parameters; the two RMSNorms of a Llama layer are gone. The
connection itself is `limelm.routing.HyperConnection`.
"""

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import OutputRecorder

from limelm.models.decoder import CausalLM, Decoder, DecoderPreTrainedModel
from limelm.models.hyper_connection.configuration_hyper_connection import HyperConnectionConfig
from limelm.models.llama import MLP, Attention, eager_attention_forward
from limelm.routing import HyperConnection


class HyperConnectionAttention(Attention):
    """Llama's attention."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend: from `[B, T, D]` to the output `[B, T, D]` and the attention weights (eager only)."""
        Q, K, V = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        Q, K, V = self.heads(Q, K, V, position_embeddings, past_key_values, kwargs)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(self, Q, K, V, attention_mask, dropout=self.dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(output.reshape(*hidden_states.shape[:2], -1)), weights


class HyperConnectionDecoderLayer(GradientCheckpointingLayer):
    """Attention and MLP, each inside its hyper-connection; streams `[B, T, n, D]` in and out."""

    def __init__(self, config: HyperConnectionConfig, layer_idx: int):
        super().__init__()
        self.self_attn = HyperConnectionAttention(config, layer_idx)
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


class HiddenState(nn.Module):
    """An identity that `output_hidden_states` records: the embeddings, then the sum of streams after each layer.

    The embeddings and the last sum lie upstream of the output. Those between are made to be looked at: losses on them
    have gradients, but the output has none with respect to them, as each of the n streams goes on by itself.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states


_HIDDEN_STATES = OutputRecorder(HiddenState, capture_initial_hidden_state=False)
_HIDDEN_STATES.num_hidden_layers_key = "num_hidden_states"  # one more than layers; transformers 5.17 ignores it


class HyperConnectionPreTrainedModel(DecoderPreTrainedModel):
    """Configuration and initialization of Hyper-Connection models."""

    config: HyperConnectionConfig
    config_class = HyperConnectionConfig
    _no_split_modules = ["HyperConnectionDecoderLayer"]
    _can_record_outputs = {
        "hidden_states": _HIDDEN_STATES,
        "attentions": HyperConnectionAttention,
    }


class HyperConnectionModel(HyperConnectionPreTrainedModel, Decoder):
    """The decoder without its head."""

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
