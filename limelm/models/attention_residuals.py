"""Attention Residuals: every sublayer attends, over depth, to what the sublayers before it added (arXiv 2603.15031).

There is no residual stream. Sublayers are numbered s = 0 ... 2L - 1, an attention and an MLP in each layer; f_s is the
sublayer with its norm, v_0 = x_0 the embedding and v_{s+1} = f_s(h_s) what the sublayer adds. With a query w_s and a
gain g_s, both `[D]`, of the sublayer's own:

    e_j = w_s . (g_s * v_j / rms(v_j))      for j <= s, in float32, without 1 / sqrt(D)
    alpha = softmax(e / temperature),       h_s = sum_j alpha_j v_j

The final norm reads such a mix of all 2L + 1 sources. With blocks of S sublayers (S = 1 is the above), a source is the
sum of its block's v: the first sublayer of a block reads x_0 and the blocks before, the others also their own block's
sum so far. With M heads (arXiv 2607.27230) D is cut into M pieces, each with a softmax of its own, over the logits of
its piece; the rms stays over all of D. Queries start at zero, gains at one. With S = 1, h is then the mean of the
sources, the residual stream divided by their number; with S > 1 it is so too, as the sources add up to the stream.
Pre-norm layers do not see that factor but for the epsilon in their norms, so the model starts as Llama up to that.
"""

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.generation import GenerationMixin

from limelm.models.configuration import DecoderConfig
from limelm.models.connected import (
    ConnectedLayer,
    Connection,
    StreamlessModel,
    StreamlessPreTrainedModel,
    first_of_layer,
    with_delta,
)
from limelm.models.decoder import CausalLM, HiddenState
from limelm.models.field_checks import strict_in_one_line
from limelm.records import Size, Unrestricted
from limelm.routing import SUBLAYERS, DepthModule, weighted_mix
from limelm.routing.build import TEMPERATURE


@strict_in_one_line
class AttentionResidualsConfig(DecoderConfig):
    """Llama's fields and how sublayers attend over depth (arXiv 2603.15031; heads: arXiv 2607.27230).

    Args:
        block_size: S, the sublayers (two in each layer) whose sum is one source; 1 for the full form.
        num_heads: M, the pieces of D with a softmax each.
        softmax_temperature: logits are divided by it.
        scale_by_sources: read the mix times the number of sources. The model then starts as Llama up to rounding,
            whatever the norms' epsilon, as a pretrained Llama needs; the papers do not have it.

    Raises:
        ValueError: for a value that no model can be built with, such as a `num_heads` that does not divide D.
    """

    model_type = "attention_residuals"
    kind: ClassVar[str] = "Language model with Attention Residuals"
    about: ClassVar[str] = (
        "Each sublayer reads what the sublayers before it added, by attention over depth, in the place of a residual "
        "stream"
    )
    paper: ClassVar[str | None] = "2603.15031"
    numbers: ClassVar[dict[str, Any]] = {
        "block_size": Size,
        "num_heads": Size,
        "softmax_temperature": Annotated[float, Unrestricted, TEMPERATURE],
    }

    block_size: int = 1
    num_heads: int = 1
    softmax_temperature: float | int = 1.0
    scale_by_sources: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide hidden_size={self.hidden_size}")


class SourceNorm(DepthModule):
    """The gain of the norm that sources have in their products with a query, and these products.

    A normalized source is never made, so that none is kept for the backward: there, a place of the model needs the
    sources themselves, which all places share, and numbers per token.
    """

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self.eps = eps
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to a gain of one."""
        init.ones_(self.weight)

    def forward(self, query: Tensor, num_heads: int, *sources: Tensor) -> Tensor:
        """The logits `[B, T, M, n]` of n sources `[B, T, D]`, in float32 at the least."""
        wide = torch.promote_types(sources[0].dtype, torch.float32)
        direction = query.to(wide) * self.weight.to(wide)
        products = [(source * direction).unflatten(-1, (num_heads, -1)).sum(-1) for source in sources]
        lengths = [torch.linalg.vector_norm(source, dim=-1, keepdim=True, dtype=wide) for source in sources]
        inverse_rms = torch.rsqrt(torch.stack(lengths, dim=-1).square() / len(query) + self.eps)
        return torch.stack(products, dim=-1) * inverse_rms


class DepthAttention(Connection):
    """A query's attention to the sources of one place of the model: `h = sum_j alpha_j v_j`.

    Args:
        hidden_size: D.
        eps: of the sources' norm.
        num_heads, softmax_temperature, scale_by_sources: as in `AttentionResidualsConfig`.
    """

    reads_what = "A source is what layers or sublayers add, or the embeddings; the next one is given a mix of them."
    depends_on_tokens = True
    source_products = 2  # in the logits and in the mix

    def __init__(
        self,
        hidden_size: int,
        eps: float,
        num_heads: int = 1,
        softmax_temperature: float = 1.0,
        scale_by_sources: bool = False,
    ):
        super().__init__()
        self.num_heads = self.num_rows = num_heads
        self.softmax_temperature = softmax_temperature
        self.scale_by_sources = scale_by_sources
        self.query = nn.Parameter(torch.empty(hidden_size))
        self.norm = SourceNorm(hidden_size, eps)
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to a query of zero: the mean of the sources."""
        init.zeros_(self.query)

    def weights(self, *sources: Tensor) -> Tensor:
        """The weights alpha `[B, T, M, n]` of n sources `[B, T, D]`, oldest first, in float32 at the least."""
        logits = self.norm(self.query, self.num_heads, *sources)
        return torch.softmax(logits / self.softmax_temperature, dim=-1)

    def effective_weights(self, call: tuple | None = None) -> Tensor:
        """The weights alpha `[B, T, M, n]` of a call."""
        assert call is not None
        return self.weights(*call)

    def forward(self, *sources: Tensor) -> Tensor:
        """The mix h `[B, T, D]` of the sources."""
        weights = self.weights(*sources)
        if self.scale_by_sources:
            weights = len(sources) * weights
        pieces = [source.unflatten(-1, (self.num_heads, -1)) for source in sources]
        return self.mixed(weighted_mix, pieces, weights).flatten(-2)


def make_connection(config: AttentionResidualsConfig, sublayer: int) -> DepthAttention:
    """Make the connection before a sublayer, or before the final norm, which counts as sublayer 2L."""
    connection = DepthAttention(
        config.hidden_size,
        config.rms_norm_eps,
        config.num_heads,
        config.softmax_temperature,
        config.scale_by_sources,
    )
    blocks = range(0, sublayer, config.block_size)  # the embedding and the blocks before, by their last deltas
    return connection.at(sublayer, (*blocks, sublayer), SUBLAYERS)


class AttentionResidualsDecoderLayer(ConnectedLayer):
    """Two sublayers, each of which reads a mix of the sources; it has no residual connections."""

    def __init__(self, config: AttentionResidualsConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.block_size = config.block_size
        self.adds_from = first_of_layer(layer_idx, config.block_size)
        self.attn_connection = make_connection(config, 2 * layer_idx)
        self.mlp_connection = make_connection(config, 2 * layer_idx + 1)
        self.hidden_state = HiddenState()

    def forward(self, *sources: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the layer.

        Args:
            sources: the embedding and every block's sum `[B, T, D]`, oldest first; the newest may be one of a block in
                which the layer goes on.

        Returns:
            The sources from number `adds_from` on: the sums of the blocks in which its sublayers are.
        """
        attention_input = self.attn_connection(*sources)
        if self.layer_idx > 0:  # the first reads the embedding, which the model has recorded
            attention_input = self.hidden_state(attention_input)
        sublayer, size = 2 * self.layer_idx, self.block_size
        sources = with_delta(sources, self.attention_delta(attention_input, **kwargs), sublayer, size)
        sources = with_delta(sources, self.mlp_delta(self.mlp_connection(*sources)), sublayer + 1, size)
        return sources[self.adds_from :]


class AttentionResidualsPreTrainedModel(StreamlessPreTrainedModel):
    """Configuration of models with Attention Residuals."""

    config: AttentionResidualsConfig
    _no_split_modules = ["AttentionResidualsDecoderLayer"]


class AttentionResidualsModel(AttentionResidualsPreTrainedModel, StreamlessModel):
    """The decoder without its head. After an early exit the final norm reads the sources that there are."""

    layer_class = AttentionResidualsDecoderLayer

    def __init__(self, config: AttentionResidualsConfig):
        super().__init__(config)
        self.output_connection = make_connection(config, 2 * config.num_hidden_layers)


class AttentionResidualsForCausalLM(AttentionResidualsPreTrainedModel, CausalLM, GenerationMixin):
    """Attention Residuals with a language-modeling head."""

    decoder_class = AttentionResidualsModel
