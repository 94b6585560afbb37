"""Sizes of the batch that models are given, and of models that are built for a comparison."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Inputs:
    """The batch that every model is given.

    Attributes:
        batch: sequences.
        tokens: per sequence.
        decode_from: tokens in the cache when decoding is timed.
    """

    batch: int = 8
    tokens: int = 256
    decode_from: int = 128


@dataclass(frozen=True)
class Shape(Inputs):
    """The batch, and the sizes of all compared models.

    Attributes:
        grouped: number of key/value heads where a case groups its queries (G < H).
    """

    layers: int = 16
    hidden: int = 256
    intermediate: int = 1024
    heads: int = 8
    grouped: int = 2
    vocab: int = 4096

    def config_fields(self, is_grouped: bool) -> dict[str, Any]:
        """The fields that every model's configuration takes."""
        return {
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.grouped if is_grouped else self.heads,
            "max_position_embeddings": max(self.tokens, self.decode_from + 64),
            "tie_word_embeddings": True,
        }

    def llama_parameters(self, is_grouped: bool) -> int:
        """LLaMA's number of parameters at this shape, by arithmetic, without building the model."""
        kv_size = self.hidden // self.heads * (self.grouped if is_grouped else self.heads)
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * kv_size
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.vocab * self.hidden + self.layers * layer + self.hidden

    def with_layers(self, layers: int) -> "Shape":
        """A shape of another depth, otherwise equal."""
        return dataclasses.replace(self, layers=layers)


PRESETS = {
    "small": Shape(),
    "deep": Shape(layers=64, batch=1),
    "paper": Shape(hidden=2048, intermediate=8192, heads=32, grouped=8, vocab=50257, batch=4, tokens=2048),
}
