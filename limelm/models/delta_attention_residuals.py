"""Delta Attention Residuals: a sublayer's input is the residual stream and a mix of what was added to it before.

arXiv 2605.18855. The residual stream x stays. Sublayers are numbered s = 0 ... 2L - 1, an attention and an MLP in each
layer; f_s is the sublayer with its norm, v_0 = x_0 the embedding, and v_{s+1} = f_s(h_s). With the weights alpha of
Attention Residuals (`attention_residuals.py`), of a query and a gain of the sublayer's own, over v_j, j <= s:

    h_s = x + c_s sum_j alpha_j v_j,     x <- x + f_s(h_s)

The mix goes into the sublayer's input only, and there is none before the final norm. c_s is 1, or a learned number
that starts at 0 (`gated`), which is Llama to the bit. With c_s = 1 and queries of zero, h is (1 + 1/n) x for n sources,
which pre-norm layers do not see but for the epsilon in their norms. With blocks of S sublayers a source is the sum of
the v of a block that is finished (S = 1 is the above): then h is no multiple of x, and only `gated` starts as Llama.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.generation import GenerationMixin

from limelm.models.attention_residuals import DepthAttention
from limelm.models.configuration import DecoderConfig
from limelm.models.connected import (
    ConnectedLayer,
    ConnectedModel,
    ConnectedPreTrainedModel,
    first_of_layer,
    with_delta,
)
from limelm.models.decoder import CausalLM
from limelm.models.field_checks import strict_in_one_line
from limelm.records import Size
from limelm.routing import SUBLAYERS


@strict_in_one_line
class DeltaAttentionResidualsConfig(DecoderConfig):
    """Llama's fields and which deltas are mixed into sublayers' inputs (arXiv 2605.18855).

    Args:
        block_size: S, the sublayers (two in each layer) whose sum is one source; 1 for the full form.
        gated: the mix has a learned factor that starts at 0, as a pretrained Llama needs; else it is added as it is.

    Raises:
        ValueError: for a value that no model can be built with, such as a `block_size` below 1.
    """

    model_type = "delta_attention_residuals"
    kind: ClassVar[str] = "Language model with Delta Attention Residuals"
    about: ClassVar[str] = (
        "Beside its residual stream, each sublayer reads what the sublayers before it added, by attention over depth"
    )
    paper: ClassVar[str | None] = "2605.18855"
    numbers: ClassVar[dict[str, Any]] = {"block_size": Size}

    block_size: int = 1
    gated: bool = False


class DeltaAttention(DepthAttention):
    """A query's attention to the sources, times a factor: `c sum_j alpha_j v_j`.

    Args:
        hidden_size: D.
        eps: of the sources' norm.
        gated: whether c is learned, and starts at 0.
    """

    def __init__(self, hidden_size: int, eps: float, gated: bool = False):
        super().__init__(hidden_size, eps)
        if gated:
            self.gate = nn.Parameter(torch.zeros(1))

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to a query of zero, the mean of the sources, and to a closed gate where there is one."""
        super().init_weights(std)
        if hasattr(self, "gate"):
            init.zeros_(self.gate)

    def forward(self, *sources: Tensor) -> Tensor:
        """The share `[B, T, D]` of the sources in the sublayer's input."""
        mix = super().forward(*sources)
        return (self.gate * mix).to(mix.dtype) if hasattr(self, "gate") else mix


def make_connection(config: DeltaAttentionResidualsConfig, sublayer: int) -> DeltaAttention:
    """Make the connection before a sublayer."""
    finished = range(0, sublayer + 1, config.block_size)  # the embedding and the blocks before, by their last deltas
    connection = DeltaAttention(config.hidden_size, config.rms_norm_eps, config.gated)
    return connection.at(sublayer, finished, SUBLAYERS)


class DeltaAttentionResidualsDecoderLayer(ConnectedLayer):
    """Two sublayers that read the residual stream and a mix of sources, and add to the stream."""

    def __init__(self, config: DeltaAttentionResidualsConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.block_size = config.block_size
        self.adds_from = first_of_layer(layer_idx, config.block_size)
        self.attn_connection = make_connection(config, 2 * layer_idx)
        self.mlp_connection = make_connection(config, 2 * layer_idx + 1)

    def forward(self, hidden_states: Tensor, *sources: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the layer.

        Args:
            hidden_states: x `[B, T, D]`.
            sources: the embedding and every block's sum `[B, T, D]`, oldest first; the newest may be one of a block in
                which the layer goes on, and which it does not read.

        Returns:
            x, and the sources from number `adds_from` on: the sums of the blocks in which its sublayers are.
        """
        sublayer, size = 2 * self.layer_idx, self.block_size
        finished = sources[: 1 + sublayer // size]
        delta = self.attention_delta(hidden_states + self.attn_connection(*finished), **kwargs)
        hidden_states, sources = hidden_states + delta, with_delta(sources, delta, sublayer, size)
        finished = sources[: 1 + (sublayer + 1) // size]
        delta = self.mlp_delta(hidden_states + self.mlp_connection(*finished))
        hidden_states, sources = hidden_states + delta, with_delta(sources, delta, sublayer + 1, size)
        return hidden_states, *sources[self.adds_from :]


class DeltaAttentionResidualsPreTrainedModel(ConnectedPreTrainedModel):
    """Configuration of models with Delta Attention Residuals."""

    config: DeltaAttentionResidualsConfig
    _no_split_modules = ["DeltaAttentionResidualsDecoderLayer"]


class DeltaAttentionResidualsModel(DeltaAttentionResidualsPreTrainedModel, ConnectedModel):
    """The decoder without its head."""

    layer_class = DeltaAttentionResidualsDecoderLayer


class DeltaAttentionResidualsForCausalLM(DeltaAttentionResidualsPreTrainedModel, CausalLM, GenerationMixin):
    """Delta Attention Residuals with a language-modeling head."""

    decoder_class = DeltaAttentionResidualsModel
