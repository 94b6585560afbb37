"""DenseFormer: after a layer, a learned average over the outputs of all layers so far (Pagliardini et al. 2024).

arXiv 2402.02622. X_0 is the embedding and Y_0 = X_0. For I = 1 ... L, with period p and dilation k:

    X_I = layer_I(Y_{I-1})
    Y_I = sum_j a_{I,j} X_j   over j <= I with j = I (mod k),   where I is a multiple of p; else Y_I = X_I

Y_L goes into the final norm. The sources are the layers' own outputs X, never the averages Y. A weight a_{I,j} is one
number for all tokens and channels, of any sign. They start with 1 at j = I and 0 elsewhere, which is Llama to the bit.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.generation import GenerationMixin

from limelm.models.configuration import DecoderConfig
from limelm.models.connected import ConnectedLayer, ConnectedModel, ConnectedPreTrainedModel, Connection
from limelm.models.decoder import CausalLM
from limelm.models.field_checks import strict_in_one_line
from limelm.records import Size
from limelm.routing import weighted_mix, whole


@strict_in_one_line
class DenseFormerConfig(DecoderConfig):
    """Llama's fields and which outputs are averaged, after which layers (arXiv 2402.02622, section 3).

    Args:
        period: p, average after every p-th layer.
        dilation: k, average every k-th output, counted back from the newest.

    Raises:
        ValueError: for a value that no model can be built with, such as a `period` below 1.
    """

    model_type = "dense_former"
    kind: ClassVar[str] = "DenseFormer language model"
    about: ClassVar[str] = "What each layer hands on is a learned average of what all earlier layers made"
    paper: ClassVar[str | None] = "2402.02622"
    numbers: ClassVar[dict[str, Any]] = {"period": Size, "dilation": Size}

    period: int = 1
    dilation: int = 1


class DepthWeightedAverage(Connection):
    """A learned average of `n` outputs, the oldest first: `sum_j a_j X_j`.

    Args:
        num_sources: n.
    """

    source_products = 1

    def __init__(self, num_sources: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_sources))
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to the newest output alone."""
        newest = torch.zeros_like(self.weight)
        newest[-1] = 1
        init.copy_(self.weight, newest)

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        """The weights a, `[1, n]`."""
        return whole(self.weight)[None]

    def forward(self, *sources: Tensor) -> Tensor:
        """The average `[B, T, D]` of the outputs `[B, T, D]`."""
        return self.mixed(weighted_mix, sources, self.weight)


class DenseFormerDecoderLayer(ConnectedLayer):
    """Llama's layer and the average after it; it adds its own output to the sources."""

    norms_its_input = True

    def __init__(self, config: DenseFormerConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        own = layer_idx + 1  # the number of its output
        self.averages = own % config.period == 0
        self.reads = range(own % config.dilation, own, config.dilation) if self.averages else ()
        if self.averages:
            self.connection = DepthWeightedAverage(len(self.reads) + 1).at(own, (*self.reads, own))

    def forward(self, hidden_states: Tensor, *sources: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            hidden_states: Y_{I-1} `[B, T, D]`.
            sources: the outputs X_j `[B, T, D]` that are averaged beside its own.

        Returns:
            Y_I and X_I.
        """
        output = self.block(hidden_states, **kwargs)
        return self.connection(*sources, output) if self.averages else output, output


class DenseFormerPreTrainedModel(ConnectedPreTrainedModel):
    """Configuration of DenseFormer models."""

    config: DenseFormerConfig
    _no_split_modules = ["DenseFormerDecoderLayer"]


class DenseFormerModel(DenseFormerPreTrainedModel, ConnectedModel):
    """The decoder without its head."""

    layer_class = DenseFormerDecoderLayer


class DenseFormerForCausalLM(DenseFormerPreTrainedModel, CausalLM, GenerationMixin):
    """DenseFormer with a language-modeling head."""

    decoder_class = DenseFormerModel
