"""LIMe: a Llama whose attention heads read a learned mix of all earlier layers' representations (arXiv 2502.09245).

Notable here:
- The decoder owns the history, what each layer so far left for the later ones. A layer is given what it reads and
  returns what it adds; only a kv layer writes, its own heads into the rows that are there for them.
- A representation X_j is normalized once, when it appears. The layers that read it apply their own gains.
- The routing itself, K and V from the history, is `limelm.routing`.
"""

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from limelm.models.decoder import CausalLM, Decoder, DecoderPreTrainedModel
from limelm.models.lime.configuration_lime import LimeConfig
from limelm.models.llama import MLP, Attention, RMSNorm, eager_attention_forward
from limelm.routing import (
    ROUTERS,
    HeadwiseLinear,
    History,
    ReadPlan,
    RouterSpec,
    as_arguments,
    parameter_of,
)
from limelm.routing.build import DEFAULTS


class LimeAttention(Attention):
    """Attention whose keys and values come from its router."""

    def __init__(self, config: LimeConfig, layer_idx: int):
        self.mixes_representations = ROUTERS[config.routing].mixes_representations and layer_idx > 0
        super().__init__(config, layer_idx)
        options = {name.removeprefix("routing_"): getattr(config, name) for name in (*DEFAULTS, "routing_backend")}
        sizes = (config.hidden_size, config.num_key_value_heads, config.head_dim)
        self.router = ROUTERS[config.routing](RouterSpec(layer_idx, *sizes, **options))

    def make_key_value_projection(self):
        if not self.mixes_representations:
            return super().make_key_value_projection()
        return HeadwiseLinear(
            self.config.hidden_size, self.num_key_value_heads, self.head_dim, bias=self.config.attention_bias
        )

    def forward(
        self,
        hidden_states: Tensor,
        gain: Tensor | None,
        carrier: Tensor | None,
        sources: tuple[Tensor, ...],
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Attend.

        Args:
            hidden_states: RMSNorm(X_i), `[B, T, D]`; Q is made from it.
            gain: g_i `[D]`, or None.
            carrier, sources: what the history gives this layer to read.
            kwargs: handed on to the attention function.

        Returns:
            The output `[B, T, D]`, the attention weights (eager only), the carrier, and the layer's own source.
        """
        Q = self.q_proj(hidden_states)
        k_proj, v_proj = as_arguments(self.k_proj, self.v_proj, to=self.router)
        K, V, carrier, source = self.router(hidden_states, gain, k_proj, v_proj, carrier, sources, Q)
        Q, K, V = self.heads(Q, K, V, position_embeddings, past_key_values, kwargs)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(self, Q, K, V, attention_mask, dropout=self.dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(output.reshape(*hidden_states.shape[:2], -1)), weights, carrier, source


class LimeDecoderLayer(GradientCheckpointingLayer):
    """One layer: X_i and what it reads of the history in, X_{i+1} and what it adds out."""

    def __init__(self, config: LimeConfig, layer_idx: int):
        super().__init__()
        self.self_attn = LimeAttention(config, layer_idx)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if self.self_attn.mixes_representations:
            self.routing_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        normalized: Tensor | None = None,
        carrier: Tensor | None = None,
        *sources: Tensor,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run the layer.

        Args:
            hidden_states: X_i `[B, T, D]`.
            normalized: X_i / rms(X_i) `[B, T, D]` where the history has it already.
            carrier, sources: what the history gives this layer to read.

        Returns:
            X_{i+1}, the carrier, and the source that this layer adds (None where that is its input).
        """
        if normalized is None:
            attention_input = self.input_layernorm(hidden_states)
        else:
            attention_input = parameter_of(self.input_layernorm) * normalized
        gain = parameter_of(self.routing_layernorm) if self.self_attn.mixes_representations else None
        output, _, carrier, source = self.self_attn(attention_input, gain, carrier, sources, **kwargs)
        hidden_states = hidden_states + output
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states, carrier, source


class LimePreTrainedModel(DecoderPreTrainedModel):
    """Configuration and initialization of LIMe models."""

    config: LimeConfig
    _no_split_modules = ["LimeDecoderLayer"]
    _can_record_outputs = {"hidden_states": LimeDecoderLayer, "attentions": LimeAttention}


class LimeModel(LimePreTrainedModel, Decoder):
    """The decoder without its head."""

    layer_class = LimeDecoderLayer

    def __init__(self, config: LimeConfig):
        super().__init__(config)
        self.plan = ReadPlan(layer.self_attn.router for layer in self.layers)  # type: ignore[union-attr, misc]

    def run_layers(self, hidden_states: Tensor, **layer_inputs) -> Tensor:
        history, eps = History(self.plan), self.config.rms_norm_eps
        for i, layer in self.layers_to_run():
            layer.self_attn.router.check_place(i)
            read = history.open(i, hidden_states, eps)
            hidden_states, *left = layer(hidden_states, *read, **layer_inputs)
            history.close(i, *left)
        return hidden_states


class LimeForCausalLM(LimePreTrainedModel, CausalLM, GenerationMixin):
    """LIMe with a language-modeling head. With `routing="none"` it is Llama, to the name and the bit."""

    decoder_class = LimeModel
