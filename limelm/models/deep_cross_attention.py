"""DeepCrossAttention: queries, keys and values from gated sums of what all layers added (Heddes et al. 2025).

arXiv 2502.06785. G_0 is the embedding x_0 and G_{j+1} what layer j as a whole adds. A gated sum of n sources (the
paper's third residual network, GRN-v3) has b [n, D] and w [D]; for each token

    g = sum_j (b_j + ReLU(w . G_j)) * G_j

where the gate ReLU(w . G_j) is one number for all channels. Layer i has three of them, over G_0 ... G_i, for queries,
keys and values, each with a norm of its own before the projection; the sum for queries is the residual stream too:

    u = q + Attention(norm q, norm k, norm v),   G_{i+1} = (u - q) + MLP(norm u)

One more over G_0 ... G_L goes into the final norm. b starts at 1 and w from a normal distribution (the paper does not
say): the plain sum, and so nearly Llama. At w = 0 the ReLU would be at its corner and w have no gradient.

With `num_recent` = k only x_0 and the last k of the G_j are sources (k-DCA); the sum of those between is one more, or
they are dropped (then a fresh model is not Llama).

A model some of whose last layers do not run (early exit) reads out with the first rows of its last b.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.generation import GenerationMixin

from limelm.models.configuration import DecoderConfig
from limelm.models.connected import Connection, SeparateInputsLayer, StreamlessModel, StreamlessPreTrainedModel
from limelm.models.decoder import CausalLM, HiddenState
from limelm.models.field_checks import strict_in_one_line
from limelm.records import Size
from limelm.routing import weighted_sum


@strict_in_one_line
class DeepCrossAttentionConfig(DecoderConfig):
    """Llama's fields and which layers are read (arXiv 2502.06785).

    Args:
        num_recent: k, read the last k layers; all where it is None.
        sum_rest: read the sum of the layers before the last `num_recent` as one source; otherwise they are not read.

    Raises:
        ValueError: for a value that no model can be built with, such as a `num_recent` below 1.
    """

    model_type = "deep_cross_attention"
    kind: ClassVar[str] = "DeepCrossAttention language model"
    about: ClassVar[str] = (
        "Queries, keys and values each read a gated sum of what earlier layers added, with weights for each channel"
    )
    paper: ClassVar[str | None] = "2502.06785"
    numbers: ClassVar[dict[str, Any]] = {"num_recent": Size}

    num_recent: int | None = None
    sum_rest: bool = True


class GatedSum(Connection):
    """The sum of `n` sources with a weight for each source and channel and a gate for each source and token (GRN-v3).

    Args:
        num_sources: n.
        hidden_size: D.
    """

    reads_what = (
        "A source is what a layer adds, or the embeddings; queries, keys and values have a gated sum of them each."
    )
    reads_deltas = True
    depends_on_tokens = True
    source_products = 3  # in the gate's argument, and with the bias and with the gate

    def __init__(self, num_sources: int, hidden_size: int):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(num_sources, hidden_size))
        self.gate = nn.Parameter(torch.empty(hidden_size))
        self.init_weights()

    def at_layer(self, layer_idx: int, weight_set: str) -> Self:
        """Say before which layer it stands (L: before the final norm), and for what; see `Connection.at`."""
        newest = range(layer_idx + 2 - len(self.bias), layer_idx + 1)  # the first may be the sum of what is older
        return self.at(layer_idx, (0, *newest), weight_set)

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to nearly the plain sum: half of the gates are open by a little."""
        init.ones_(self.bias)
        init.normal_(self.gate, std=std)

    def gates(self, *sources: Tensor) -> list[Tensor]:
        """The gates of sources `[B, T, D]`, `[B, T, 1]` each, in float32 at the least."""
        gate = self.gate.to(torch.promote_types(self.gate.dtype, torch.float32))
        return [torch.relu((source * gate).sum(dim=-1, keepdim=True)) for source in sources]

    def effective_weights(self, call: tuple | None = None) -> Tensor:
        """The mean over channels of `|b_j + gate|` in a call, `[B, T, 1, n]`; of sources that there are not, zero."""
        assert call is not None
        rows = zip(self.bias[: len(call)], self.gates(*call), strict=True)
        weights = torch.stack([(row + gate).abs().mean(dim=-1, keepdim=True) for row, gate in rows], dim=-1)
        return torch.nn.functional.pad(weights, (0, len(self.bias) - len(call)))

    def forward(self, *sources: Tensor) -> Tensor:
        """The sum `[B, T, D]` of at most `n` sources `[B, T, D]`, the oldest first."""
        return self.mixed(partial(self._sum, self.gates(*sources)), sources, None)

    def _sum(self, gates: list[Tensor], sources: Sequence[Tensor], shares: Tensor | None) -> Tensor:
        """The sum, of each source the share `[1, n]` that is asked for."""
        if shares is not None:
            sources = [source * share for source, share in zip(sources, shares.unbind(dim=-1), strict=True)]
        return weighted_sum((*sources, *sources), (*self.bias[: len(sources)].unbind(), *gates))


# The sources after some layers: x_0, the sum of older layers where it is asked for, and the recent layers.


def most_sources(config: DeepCrossAttentionConfig) -> int:
    """How many sources there are at the most."""
    layers = config.num_hidden_layers if config.num_recent is None else config.num_recent + config.sum_rest
    return 1 + layers


def with_layer(sources: tuple[Tensor, ...], delta: Tensor, most: int, sum_rest: bool) -> tuple[Tensor, ...]:
    """Sources with what one more layer adds; where there are the most, the oldest recent layer leaves its place."""
    if len(sources) < most:
        return (*sources, delta)
    embeddings, *layers = sources
    if not sum_rest:
        return (embeddings, *layers[1:], delta)
    rest, oldest, *recent = layers
    return (embeddings, rest.to(embeddings.dtype) + oldest, *recent, delta)  # under autocast as wide as the embedding


class DeepCrossAttentionDecoderLayer(SeparateInputsLayer):
    """Llama's layer with three gated sums of the sources as its inputs; it has no residual connection around it."""

    def __init__(self, config: DeepCrossAttentionConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.most_sources, self.sum_rest = most_sources(config), config.sum_rest
        num_sources = min(layer_idx + 1, self.most_sources)
        self.adds_from = num_sources if num_sources < self.most_sources else 1
        self.query_connection = GatedSum(num_sources, config.hidden_size).at_layer(layer_idx, "queries")
        self.key_connection = GatedSum(num_sources, config.hidden_size).at_layer(layer_idx, "keys")
        self.value_connection = GatedSum(num_sources, config.hidden_size).at_layer(layer_idx, "values")
        self.hidden_state = HiddenState()

    def forward(self, *sources: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the layer.

        Args:
            sources: what there is to read, `[B, T, D]` each, oldest first.

        Returns:
            The sources from number `adds_from` on: what the layer adds, after those that have moved for it.
        """
        query_states = self.query_connection(*sources)
        if self.layer_idx > 0:  # the first hidden state is the embedding, which the model has recorded
            query_states = self.hidden_state(query_states)
        key_states, value_states = self.key_connection(*sources), self.value_connection(*sources)
        output = self.attention_delta(query_states, key_states, value_states, **kwargs)
        delta = output + self.mlp_delta(query_states + output)
        return with_layer(sources, delta, self.most_sources, self.sum_rest)[self.adds_from :]


class DeepCrossAttentionPreTrainedModel(StreamlessPreTrainedModel):
    """Configuration of DeepCrossAttention models."""

    config: DeepCrossAttentionConfig
    _no_split_modules = ["DeepCrossAttentionDecoderLayer"]


class DeepCrossAttentionModel(DeepCrossAttentionPreTrainedModel, StreamlessModel):
    """The decoder without its head."""

    layer_class = DeepCrossAttentionDecoderLayer

    def __init__(self, config: DeepCrossAttentionConfig):
        super().__init__(config)
        layers = config.num_hidden_layers
        connection = GatedSum(min(layers + 1, most_sources(config)), config.hidden_size)
        self.output_connection = connection.at_layer(layers, "queries")  # they read the residual stream, as it does


class DeepCrossAttentionForCausalLM(DeepCrossAttentionPreTrainedModel, CausalLM, GenerationMixin):
    """DeepCrossAttention with a language-modeling head."""

    decoder_class = DeepCrossAttentionModel
