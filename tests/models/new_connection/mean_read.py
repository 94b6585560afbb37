"""A connection of somebody's own: each layer reads the mean of all earlier outputs beside its input.

X_0 is the embedding, and for i = 0 ... L - 1

    X_{i+1} = layer_i(X_i + c_i / (i + 1) sum_{j <= i} X_j)

The number c_i starts at 0, which is Llama to the bit.
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
class MeanReadConfig(DecoderConfig):
    """Llama's fields and from which layer on the mean is read.

    Args:
        first_layer: layers before this one are plain Llama's.

    Raises:
        ValueError: for a value that no model can be built with.
    """

    model_type = "mean_read"
    kind: ClassVar[str] = "Language model that reads means over depth"
    about: ClassVar[str] = "Beside its input each layer reads the mean of all earlier outputs, times a learned number"
    numbers: ClassVar[dict[str, Any]] = {"first_layer": Size}

    first_layer: int = 1


class MeanRead(Connection):
    """The newest of `n` sources and a share of their mean.

    Args:
        num_sources: n.
    """

    source_products = 1

    def __init__(self, num_sources: int):
        super().__init__()
        self.num_sources = num_sources
        self.weight = nn.Parameter(torch.empty(1))
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        init.zeros_(self.weight)

    def weights(self) -> Tensor:
        """The weights of the sources `[n]`, in float32 at the least."""
        c = whole(self.weight)
        share = (c.to(torch.promote_types(c.dtype, torch.float32)) / self.num_sources).expand(self.num_sources)
        return torch.cat([share[:-1], 1 + share[-1:]])

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        return self.weights()[None]

    def forward(self, *sources: Tensor) -> Tensor:
        return self.mixed(weighted_mix, sources, self.weights())


class MeanReadDecoderLayer(ConnectedLayer):
    """Llama's layer after its read; it adds its output to the sources."""

    def __init__(self, config: MeanReadConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        if layer_idx >= config.first_layer:
            self.connection = MeanRead(layer_idx + 1).at(layer_idx, range(layer_idx + 1))

    def forward(self, hidden_states: Tensor, *sources: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        read = self.connection(*sources) if hasattr(self, "connection") else hidden_states
        output = self.block(read, **kwargs)
        return output, output


class MeanReadPreTrainedModel(ConnectedPreTrainedModel):
    config: MeanReadConfig
    _no_split_modules = ["MeanReadDecoderLayer"]


class MeanReadModel(MeanReadPreTrainedModel, ConnectedModel):
    layer_class = MeanReadDecoderLayer


class MeanReadForCausalLM(MeanReadPreTrainedModel, CausalLM, GenerationMixin):
    decoder_class = MeanReadModel
