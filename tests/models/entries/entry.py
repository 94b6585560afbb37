"""What the suites have to know of a model type, in one place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import LlamaConfig

from tests.models.naive import NaiveDecoder

#: The shape of each parameter by its name in the state dict; None for a Llama's that the model does not have.
Shapes = dict[str, tuple[int, ...] | None]
#: Of each place with a choice the numbers of the sources, as `tests/analysis/test_connections.py` finds them.
Sources = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class Entry:
    """One model type, as all suites are given it.

    Attributes:
        variants: the tiny models that the suites run through, by name: their options beside `TINY`.
        naive: makes the float64 version of a configuration and of weights by their state-dict names.
        options: the fields that the configuration has beside Llama's, and their defaults.
        shapes: makes what parameters there are beside Llama's, of a configuration.
        counts: options of `COUNTED`, and how many parameters there are beside Llama's.
        starts: by variant, by how much of the largest logit a model around a Llama's weights may differ from that Llama
            at first; None where it does not start as one. To the bit where a variant is not named.
        idle: whether a parameter can change nothing, as what chooses where there is one source.
        decays: whether a parameter that Llama does not have takes part in weight decay.
        rate: the learning rate of what Llama does not have, in units of the rest's.
        sources: by variant with 4 layers; none for variants whose weights over depth other suites look at.
        sets: by variant, what the rows of the first place and of the last one are for, where there are several.
    """

    variants: Mapping[str, dict[str, Any]]
    naive: Callable[[LlamaConfig, dict[str, Tensor]], NaiveDecoder]
    options: Mapping[str, Any]
    shapes: Callable[[Any], Shapes]
    counts: list[tuple[dict[str, Any], int]]
    starts: Mapping[str, float | None] = field(default_factory=dict)
    idle: Callable[[str], bool] = lambda name: False
    decays: Callable[[str], bool] = lambda name: False
    rate: float = 1.0
    sources: Mapping[str, Sources] = field(default_factory=dict)
    sets: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)


#: The sizes at which parameters are counted, those of GPT-2 small and of a small vocabulary.
COUNTED = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 100}


def each_layer(config: LlamaConfig) -> list[tuple[int, str]]:
    """The layers' numbers and the beginnings of their parameters' names."""
    return [(i, f"model.layers.{i}") for i in range(config.num_hidden_layers)]
