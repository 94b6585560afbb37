"""LIMe: a Llama whose attention heads read a learned mix of all earlier layers' representations (arXiv 2502.09245).

Notable here:
- The decoder owns the history, a list with what each layer so far left for the later ones. A layer reads it and
  returns what it adds; it never writes into it.
- A representation X_j is normalised once, by the layer that reads it first. Later layers apply their own gains.
- The routing itself, K and V from the history, is `limelm.routing`.
"""

from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from limelm.models.blocks import MLP, Attention, RMSNorm
from limelm.models.decoder import CausalLM, Decoder, DecoderPreTrainedModel
from limelm.models.lime.configuration_lime import LimeConfig
from limelm.routing import ROUTERS, HeadwiseLinear, Router, RouterSpec


class LimeAttention(Attention):
    """Attention whose keys and values come from its router."""

    def __init__(self, config: LimeConfig, layer_idx: int):
        self.routes_headwise = ROUTERS[config.routing].headwise and layer_idx > 0
        super().__init__(config, layer_idx)
        self.router = ROUTERS[config.routing](
            RouterSpec(
                layer_idx=layer_idx,
                hidden_size=config.hidden_size,
                num_heads=config.num_key_value_heads,
                top_p=config.routing_top_p,
                init=config.routing_init,
            )
        )

    def make_key_value_projection(self):
        if not self.routes_headwise:
            return super().make_key_value_projection()
        return HeadwiseLinear(
            self.config.hidden_size, self.num_key_value_heads, self.head_dim, bias=self.config.attention_bias
        )

    def forward(
        self, hidden_states: Tensor, normalized: Tensor, gain: Tensor | None, history: tuple[Tensor, ...], **kwargs
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Attend.

        Args:
            hidden_states: RMSNorm(X_i), `[B, T, D]`; Q is made from it.
            normalized: X_i / rms(X_i), `[B, T, D]`.
            gain: g_i `[D]`, or None.
            history: what the layers below returned as their sources.

        Returns:
            The output `[B, T, D]`, the attention weights (eager only), and the source for the layers above.
        """
        Q = self.q_proj(hidden_states)
        K, V, source = self.router(hidden_states, normalized, gain, history, self.k_proj, self.v_proj)
        output, weights = self.attend(Q, K, V, **kwargs)
        return output, weights, source


class LimeDecoderLayer(GradientCheckpointingLayer):
    """One layer: X_i and the history in, X_{i+1} and this layer's source out."""

    def __init__(self, config: LimeConfig, layer_idx: int):
        super().__init__()
        self.self_attn = LimeAttention(config, layer_idx)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if self.self_attn.routes_headwise:
            self.routing_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, *history: Tensor, **kwargs) -> tuple[Tensor, Tensor | None]:
        normalized = self.input_layernorm.normalize(hidden_states)  # X_i / rms(X_i), once for all readers
        gain = self.routing_layernorm.weight if self.self_attn.routes_headwise else None
        attention_input = self.input_layernorm(normalized, is_normalized=True)
        output, _, source = self.self_attn(attention_input, normalized, gain, history, **kwargs)
        hidden_states = hidden_states + output
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states, source


class LimePreTrainedModel(DecoderPreTrainedModel):
    """Configuration and initialisation of LIMe models."""

    config: LimeConfig
    config_class = LimeConfig
    _no_split_modules = ["LimeDecoderLayer"]
    _can_record_outputs = {"hidden_states": LimeDecoderLayer, "attentions": LimeAttention}

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, Router):
            module.init_weights()


class LimeModel(LimePreTrainedModel, Decoder):
    """The decoder without its head."""

    layer_class = LimeDecoderLayer

    def run_layers(self, hidden_states: Tensor, **layer_inputs) -> Tensor:
        history: list[Tensor] = []
        for layer in self.layers:
            hidden_states, source = layer(hidden_states, *history, **layer_inputs)
            if source is not None:
                history.append(source)
        return hidden_states


class LimeForCausalLM(LimePreTrainedModel, CausalLM):
    """LIMe with a language-modelling head. With `routing="none"` it is Llama, to the name and the bit."""

    decoder_class = LimeModel
