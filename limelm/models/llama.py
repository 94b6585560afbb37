"""The parts that all decoders here share with Llama: norm, rotary position embedding, MLP, attention.

State-dict names and arithmetic are those of `transformers.LlamaForCausalLM`, to the bit.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from limelm.models.serving import refuse_divided_heads
from limelm.routing import rms_normalize


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang & Sennrich 2019).

    Where X / rms(X) is there already, a layer multiplies it by `weight` itself: serving engines put norms of their own
    in the place of these, with a `weight` and a call of one argument (docs/serving.md).
    """

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The gain times X / rms(X), over the last dimension, computed in float32."""
        return self.weight * rms_normalize(hidden_states, self.eps)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position embedding (Su et al. 2021), with every scaling that HF knows."""

    inv_freq: Tensor

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        inv_freq, self.attention_scaling = self.initial_frequencies()
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    def initial_frequencies(self) -> tuple[Tensor, float]:
        """The frequencies `[d / 2]` that the config asks for, and the factor on cosines and sines."""
        if self.rope_type == "default":
            return self.compute_default_rope_parameters(self.config)
        return ROPE_INIT_FUNCTIONS[self.rope_type](self.config)

    @staticmethod
    def compute_default_rope_parameters(config: LlamaConfig, **kwargs) -> tuple[Tensor, float]:
        """Frequencies theta^(-2k/d), k = 0 ... d/2 - 1; HF's weight initialization looks for this name."""
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[B, T, d]` in `x`'s dtype for `position_ids` `[B, T]`."""
        angles = position_ids[..., None].float() * self.inv_freq.float()
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotation(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Make the factors of a rotation: cosines, and sines with the first half negated, `[B, 1, T, d]`."""
    first, second = sin.chunk(2, dim=-1)
    return cos.unsqueeze(1), torch.cat((-first, second), dim=-1).unsqueeze(1)


def rotate(states: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Apply a `rotation` to queries or keys `[B, heads, T, d]`."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((second, first), dim=-1) * signed_sin


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention spelled out, in the signature of HF's attention interface; also returns the attention weights."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class Attention(nn.Module):
    """Llama's grouped-query attention; the `forward` of a subclass makes keys and values and calls HF's interface.

    It must call the interface itself: vLLM looks for the call, and its `scaling=`, in the source of `forward`.
    """

    def __init__(self, config: LlamaConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_heads = config.num_key_value_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        query_size = config.num_attention_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = self.make_key_value_projection()
        self.v_proj = self.make_key_value_projection()
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)

    def make_key_value_projection(self) -> nn.Linear:
        """Make a k_proj or v_proj."""
        size = self.num_key_value_heads * self.head_dim
        return nn.Linear(self.config.hidden_size, size, bias=self.config.attention_bias)

    @property
    def dropout(self) -> float:
        """The share of attention weights that is dropped: the config's in training, otherwise 0."""
        return self.config.attention_dropout if self.training else 0.0

    def heads(
        self,
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Cache | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prepare attention's inputs: split heads, rotate queries and keys, put the cached keys and values before.

        Args:
            Q: `[B, T, H d]`; K, V: `[B, T, G d]` or `[B, T, G, d]`, all before RoPE.
            position_embeddings: what `rotation` makes.
            options: what the attention function will be given; the cache of a continuous batch changes it in place.

        Returns:
            Q `[B, H, T, d]`; K and V `[B, G, S, d]`.
        """
        refuse_divided_heads(self, **options)
        batch, tokens = Q.shape[:2]
        shape = (batch, tokens, -1, self.head_dim)
        Q = rotate(Q.reshape(shape).transpose(1, 2), *position_embeddings)
        K = rotate(K.reshape(shape).transpose(1, 2), *position_embeddings)
        V = V.reshape(shape).transpose(1, 2)
        if past_key_values is not None:
            K, V = past_key_values.update(K, V, self.layer_idx, kwargs=options)
        return Q, K, V


class SelfAttention(Attention):
    """Llama's attention, whose keys and values may be made from other states than its queries."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        key_states: Tensor | None = None,
        value_states: Tensor | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: what queries are made from, `[B, T, D]`.
            key_states, value_states: what keys and values are made from, `hidden_states` where they are not given.

        Returns:
            The output `[B, T, D]` and the attention weights (eager only).
        """
        Q = self.q_proj(hidden_states)
        K = self.k_proj(hidden_states if key_states is None else key_states)
        V = self.v_proj(hidden_states if value_states is None else value_states)
        Q, K, V = self.heads(Q, K, V, position_embeddings, past_key_values, kwargs)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(self, Q, K, V, attention_mask, dropout=self.dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(output.reshape(*hidden_states.shape[:2], -1)), weights
