"""MUDDFormer: four mixes of all layers' outputs, with weights made from the newest one (Xiao et al. 2025).

arXiv 2502.12170. X_0 is the embedding and X_{i+1} the output of layer i = 0 ... L - 1. After layer i there are
n = i + 2 sources, which C = 4 ways mix, c = q, k, v, r; after the last layer it is one way. For each token

    z   = GELU(X_{i+1} / rms(X_{i+1}) W_1)         W_1 [D, K]
    w   = z W_2 + a                                W_2 [K, C n], a [C, n]
    X^c = sum_j w_{c,j} X_j

with K = C n (4 C n after the last layer), rounded up to the next multiple of 64, a whole 64 up where it is one. Layer
i + 1 makes queries, keys and values from X^q, X^k and X^v, through a norm for each, and adds to X^r; layer 0 has one
norm and reads the embedding. The one way after the last layer goes into the final norm. W_2 starts at 0 and a with 1 at
the newest source and 0 elsewhere, which is Llama to the bit. GELU is the exact one, by the error function; the
authors' training code has its approximation by tanh.

With `pre_post_norm` (section 2.5, for deep models): each source and the input of W_1 go through RMSNorms with gains, a
starts at 0, and X^c = X_{i+1} + mix^c, where the mix of way r (after the last layer, of the only way) goes through an
RMSNorm whose gain starts at 0.001.

A model whose `num_hidden_layers` is lowered after it was built (early exit) reads out X^r of the last layer that runs.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import initialization as init
from transformers.generation import GenerationMixin

from limelm.models.configuration import DecoderConfig
from limelm.models.connected import ConnectedModel, ConnectedPreTrainedModel, Connection, SeparateInputsLayer
from limelm.models.decoder import CausalLM
from limelm.models.field_checks import strict_in_one_line
from limelm.models.llama import RMSNorm
from limelm.routing import rms_normalize, weighted_mix

#: What the ways of a mix are for, in their order; after the last layer there is the last way alone.
WAYS = ("queries", "keys", "values", "residual stream")


@strict_in_one_line
class MUDDFormerConfig(DecoderConfig):
    """Llama's fields and MUDDFormer's (arXiv 2502.12170).

    Args:
        pre_post_norm: normalize the sources before they are mixed and the residual way's mix after it (section 2.5).

    Raises:
        ValueError: for a value that no model can be built with.
    """

    model_type = "mudd_former"
    kind: ClassVar[str] = "MUDDFormer language model"
    about: ClassVar[str] = (
        "Queries, keys, values and the residual stream each read a mix of all earlier layers' outputs, with weights "
        "computed for every token"
    )
    paper: ClassVar[str | None] = "2502.12170"

    pre_post_norm: bool = False


class MultiwayDynamicDense(Connection):
    """Several mixes of `n` sources, with weights for each token that are made from the newest layer output.

    Args:
        hidden_size: D.
        num_sources: n.
        num_ways: C.
        expansion: K is so many times C n, before it is rounded up.
        eps: of the norms.
        pre_post_norm: add the newest output to each mix, whose last way is normalized.
    """

    reads_what = (
        "A source is the output of a layer, or the embeddings; queries, keys, values and the residual stream of the "
        "next layer have a mix of them each."
    )
    depends_on_tokens = True

    def __init__(
        self, hidden_size: int, num_sources: int, num_ways: int, expansion: int, eps: float, pre_post_norm: bool
    ):
        super().__init__()
        num_weights = num_ways * num_sources
        inner_size = (expansion * num_weights // 64 + 1) * 64
        self.num_rows = self.source_products = num_ways
        self.eps = eps
        self.hidden = nn.Linear(hidden_size, inner_size, bias=False)
        self.output = nn.Linear(inner_size, num_weights, bias=False)
        self.bias = nn.Parameter(torch.empty(num_ways, num_sources))
        self.pre_post_norm = pre_post_norm
        if pre_post_norm:
            self.norm = RMSNorm(hidden_size, eps)
            self.residual_norm = RMSNorm(hidden_size, eps)
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to the newest output alone in all ways."""
        init.normal_(self.hidden.weight, std=self.hidden.in_features**-0.5)
        init.zeros_(self.output.weight)
        bias = torch.zeros_like(self.bias)
        bias[:, -1] = 0 if self.pre_post_norm else 1
        init.copy_(self.bias, bias)
        if self.pre_post_norm:
            init.constant_(self.residual_norm.weight, 1e-3)

    def weights(self, output: Tensor) -> Tensor:
        """Make the weights w `[B, T, C, n]`, in float32 at the least, from the newest layer output `[B, T, D]`."""
        normalized = self.norm(output) if self.pre_post_norm else rms_normalize(output, self.eps)
        w = self.output(gelu(self.hidden(normalized))).unflatten(-1, self.bias.shape)
        return w.to(torch.promote_types(w.dtype, torch.float32)) + self.bias

    def effective_weights(self, call: tuple | None = None) -> Tensor:
        """The weights w `[B, T, C, n]` of a call; with `pre_post_norm` beside the newest output, which has none."""
        assert call is not None
        return self.weights(call[0])

    def forward(self, output: Tensor, *sources: Tensor) -> list[Tensor]:
        """Mix.

        Args:
            output: the newest layer output, `[B, T, D]`.
            sources: `n` tensors `[B, T, D]`, the oldest first; the last is `output` or its norm.

        Returns:
            X^c `[B, T, D]` of every way.
        """
        mixes = self.mixed(mix_ways, sources, self.weights(output))
        if not self.pre_post_norm:
            return mixes
        mixes[-1] = self.residual_norm(mixes[-1])
        return [output + mix for mix in mixes]


def mix_ways(sources: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """The mix `[B, T, D]` of every way, by weights `[B, T, C, n]`."""
    return [weighted_mix(sources, w) for w in weights.unbind(dim=-2)]


class MUDDFormerDecoderLayer(SeparateInputsLayer):
    """Llama's layer with three inputs, and the mixes after it; it adds its own output and three ways to the sources."""

    def __init__(self, config: MUDDFormerConfig, layer_idx: int):
        super().__init__(config, layer_idx, separate=layer_idx > 0)
        is_last = layer_idx == config.num_hidden_layers - 1
        num_ways, expansion = (1, 4) if is_last else (4, 1)
        eps = config.rms_norm_eps
        num_sources = layer_idx + 2
        self.connection = MultiwayDynamicDense(
            config.hidden_size, num_sources, num_ways, expansion, eps, config.pre_post_norm
        ).at(layer_idx + 1, range(num_sources), *WAYS[-num_ways:])
        self.source_norm = RMSNorm(config.hidden_size, eps) if config.pre_post_norm else None

    def forward(self, hidden_states: Tensor, *sources: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the layer.

        Args:
            hidden_states: X^r `[B, T, D]`.
            sources: the i + 1 sources that there are, `[B, T, D]` each, then X^q, X^k and X^v (for layer 0 none).

        Returns:
            The next X^r, the source that this layer adds, and the next X^q, X^k and X^v (after the last layer none).
        """
        sources, inputs = sources[: self.adds_from], sources[self.adds_from :]
        hidden_states = hidden_states + self.attention_delta(*(inputs or (hidden_states,)), **kwargs)
        output = hidden_states + self.mlp_delta(hidden_states)
        source = output if self.source_norm is None else self.source_norm(output)
        *ways, residual = self.connection(output, *sources, source)
        return residual, source, *ways


class MUDDFormerPreTrainedModel(ConnectedPreTrainedModel):
    """Configuration of MUDDFormer models."""

    config: MUDDFormerConfig
    _no_split_modules = ["MUDDFormerDecoderLayer"]


class MUDDFormerModel(MUDDFormerPreTrainedModel, ConnectedModel):
    """The decoder without its head."""

    layer_class = MUDDFormerDecoderLayer

    def __init__(self, config: MUDDFormerConfig):
        super().__init__(config)
        self.source_norm = RMSNorm(config.hidden_size, config.rms_norm_eps) if config.pre_post_norm else None

    def first_source(self, embeddings: Tensor) -> Tensor:
        return embeddings if self.source_norm is None else self.source_norm(embeddings)


class MUDDFormerForCausalLM(MUDDFormerPreTrainedModel, CausalLM, GenerationMixin):
    """MUDDFormer with a language-modeling head."""

    decoder_class = MUDDFormerModel
