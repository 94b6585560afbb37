"""Hyper-Connections: a Llama with n residual streams and learned connections between them (arXiv 2409.19606).

Every norm inside the layers is a LayerNorm without parameters; the two RMSNorms of a Llama layer are gone.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import OutputRecorder

from limelm.models.decoder import CausalLM, Decoder, DecoderPreTrainedModel
from limelm.models.hyper_connection.configuration_hyper_connection import HyperConnectionConfig
from limelm.models.llama import MLP, Attention, eager_attention_forward
from limelm.routing.module import CONNECTION_MATRICES, CONNECTIONS, DepthModule, Rule
from limelm.routing.ops.backends import autocast_dtype

LAYER_NORM_EPS = 1e-5


def plain_norm(states: Tensor) -> Tensor:
    """LayerNorm over the last dimension, without gain and bias; under autocast in float32, as CUDA does by itself."""
    if autocast_dtype(states.device) is not None:
        states = states.float()
    return layer_norm(states, states.shape[-1:], eps=LAYER_NORM_EPS)


class HyperConnection(DepthModule):
    """The connection around one sublayer: the mix of streams that it reads, and the streams it is added to.

    With n streams S `[B, T, n, D]`, alpha `[n, n + 1]` and beta `[n]` (equations 2-5; 10-13 where dynamic):
    M = alpha^T S; the sublayer f reads M_0; the streams become beta f(norm(M_0)) + M_1...n. In a model of one's own:

        streams = x.unsqueeze(-2).repeat(1, 1, num_streams, 1)                       # once, after the embedding
        inputs, carried, beta = connection(streams)                                  # around each sublayer
        streams = connection.write(sublayer(inputs), carried, beta)
        x = streams.sum(dim=-2)                                                      # before the final norm

    Args:
        hidden_size: D.
        num_streams: n.
        layer_idx: i of the layer; its sublayers begin by reading stream i mod n.
        dynamic: alpha and beta depend on the streams (DHC); else they are learned constants (SHC).
    """

    def __init__(self, hidden_size: int, num_streams: int, layer_idx: int, dynamic: bool = True):
        super().__init__()
        n = num_streams
        self.layer_idx = layer_idx
        self.dynamic = dynamic
        self.static_alpha = nn.Parameter(torch.empty(n, n + 1))
        self.static_beta = nn.Parameter(torch.empty(n))
        if self.dynamic:
            self.dynamic_alpha = nn.Parameter(torch.empty(hidden_size, n + 1))
            self.dynamic_beta = nn.Parameter(torch.empty(hidden_size))
            self.alpha_scale = nn.Parameter(torch.empty(1))
            self.beta_scale = nn.Parameter(torch.empty(1))
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to pre-norm residual connections: the sublayer reads stream i mod n and writes to all."""
        n = self.static_beta.numel()
        first_read = torch.zeros_like(self.static_alpha[:, :1])
        first_read[self.layer_idx % n] = 1
        carried = torch.eye(n, dtype=self.static_alpha.dtype, device=self.static_alpha.device)
        init.copy_(self.static_alpha, torch.cat((first_read, carried), dim=1))
        init.ones_(self.static_beta)
        if self.dynamic:
            init.zeros_(self.dynamic_alpha)
            init.zeros_(self.dynamic_beta)
            init.constant_(self.alpha_scale, 0.01)
            init.constant_(self.beta_scale, 0.01)

    def parameter_rules(self) -> dict[str, Rule]:
        """The dynamic matrices decay, the static parameters and scales do not."""
        names = [name for name, _ in self.named_parameters(recurse=False)]
        return {name: CONNECTION_MATRICES if name.startswith("dynamic_") else CONNECTIONS for name in names}

    def forward(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read S `[B, T, n, D]`: the sublayer's input `[B, T, D]`, the carried streams, beta `[B, T, n]` or `[n]`."""
        alpha: Tensor = self.static_alpha
        beta: Tensor = self.static_beta
        if self.dynamic:
            W = torch.cat((self.dynamic_alpha, self.dynamic_beta.unsqueeze(-1)), dim=-1)  # one pass over the streams
            dynamic = torch.tanh(plain_norm(streams) @ W)  # [B, T, n, n + 2]
            alpha = alpha + self.alpha_scale * dynamic[..., :-1]
            beta = beta + self.beta_scale * dynamic[..., -1]
        M = alpha.transpose(-1, -2).to(streams.dtype) @ streams
        return plain_norm(M[..., 0, :]), M[..., 1:, :], beta.to(streams.dtype)

    def write(self, output: Tensor, carried: Tensor, beta: Tensor) -> Tensor:
        """The new streams `[B, T, n, D]` from the sublayer's output `[B, T, D]`."""
        return beta.unsqueeze(-1) * output.unsqueeze(-2) + carried


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

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, DepthModule):
            module.init_weights(self.config.initializer_range)


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
