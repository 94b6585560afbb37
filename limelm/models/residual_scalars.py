"""Residual scalars: two learned numbers per layer, the cheapest connection over depth.

Before layer i, i = 0 ... L - 1, with the residual stream x and the embedding x_0:

    x <- r_i x + s_i x_0

The first layers of many speed runs (nanochat among them) begin so; here r_i starts at 1 and s_i at 0, which is Llama.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.generation import GenerationMixin

from limelm.models.configuration import DecoderConfig
from limelm.models.connected import ConnectedLayer, ConnectedModel, ConnectedPreTrainedModel, Connection
from limelm.models.decoder import CausalLM
from limelm.models.field_checks import strict_in_one_line
from limelm.routing import weighted_sum, whole


@strict_in_one_line
class ResidualScalarsConfig(DecoderConfig):
    """Llama's fields, and no others: residual scalars have no options.

    Raises:
        ValueError: for a value that no model can be built with.
    """

    model_type = "residual_scalars"
    kind: ClassVar[str] = "Language model with residual scalars"
    about: ClassVar[str] = (
        "Each layer's residual stream is a sum of the stream so far and the embedding, with two learned numbers"
    )


class ResidualScalars(Connection):
    """The two numbers of a layer: `r x + s x_0`."""

    source_products = 1

    def __init__(self):
        super().__init__()
        self.residual_scale = nn.Parameter(torch.empty(1))
        self.embedding_scale = nn.Parameter(torch.empty(1))
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to the residual stream alone."""
        init.ones_(self.residual_scale)
        init.zeros_(self.embedding_scale)

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        """The weights `[1, 2]` of the embeddings and of the residual stream."""
        return torch.cat([whole(self.embedding_scale), whole(self.residual_scale)])[None]

    def forward(self, hidden_states: Tensor, embeddings: Tensor) -> Tensor:
        """The layer's input `[B, T, D]`."""
        return self.mixed(self._sum, (embeddings, hidden_states), None)

    def _sum(self, sources: Sequence[Tensor], shares: Tensor | None) -> Tensor:
        """`r x + s x_0`, of each term the share `[1, 2]` that is asked for."""
        embeddings, hidden_states = sources
        scales: list[Tensor] = [self.residual_scale, self.embedding_scale]
        if shares is not None:
            scales = [scale * share for scale, share in zip(scales, reversed(shares.unbind(dim=-1)), strict=True)]
        return weighted_sum((hidden_states, embeddings), scales)


class ResidualScalarsDecoderLayer(ConnectedLayer):
    """Llama's layer after its scalars; it reads the embeddings alone, and adds nothing."""

    reads = (0,)

    def __init__(self, config: ResidualScalarsConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.connection = ResidualScalars().at(layer_idx, (0, layer_idx) if layer_idx > 0 else (0,))

    def forward(self, hidden_states: Tensor, embeddings: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the layer: the residual stream and the embeddings `[B, T, D]` in, the residual stream out."""
        return (self.block(self.connection(hidden_states, embeddings), **kwargs),)


class ResidualScalarsPreTrainedModel(ConnectedPreTrainedModel):
    """Configuration of models with residual scalars."""

    config: ResidualScalarsConfig
    _no_split_modules = ["ResidualScalarsDecoderLayer"]


class ResidualScalarsModel(ResidualScalarsPreTrainedModel, ConnectedModel):
    """The decoder without its head."""

    layer_class = ResidualScalarsDecoderLayer


class ResidualScalarsForCausalLM(ResidualScalarsPreTrainedModel, CausalLM, GenerationMixin):
    """Residual scalars with a language-modeling head."""

    decoder_class = ResidualScalarsModel
