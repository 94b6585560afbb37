"""Sizes of the batch that models are given, and of models that are built for a comparison."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Inputs:
    """The batch that every model is given.

    Attributes:
        batch_size: sequences.
        sequence_length: per sequence.
        decode_from: tokens in the cache when decoding is timed.
    """

    batch_size: int = 8
    sequence_length: int = 256
    decode_from: int = 128


@dataclass(frozen=True)
class Shape(Inputs):
    """The batch, and the sizes of all compared models.

    Attributes:
        num_key_value_heads: number of key/value heads where a case groups its queries (G < H).
    """

    num_hidden_layers: int = 16
    hidden_size: int = 256
    intermediate_size: int = 1024
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    vocab_size: int = 4096

    def config_fields(self, is_grouped: bool) -> dict[str, Any]:
        """The fields that every model's configuration takes."""
        sizes = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(Shape)
            if field.name not in {given.name for given in dataclasses.fields(Inputs)}
        }
        return {
            **sizes,
            "num_key_value_heads": self.key_value_heads(is_grouped),
            "max_position_embeddings": max(self.sequence_length, self.decode_from + 64),
            "tie_word_embeddings": True,
        }

    def key_value_heads(self, is_grouped: bool) -> int:
        """The number of key/value heads: as many as query heads, or fewer."""
        return self.num_key_value_heads if is_grouped else self.num_attention_heads

    def llama_parameters(self, is_grouped: bool) -> int:
        """LLaMA's number of parameters at this shape, by arithmetic, without building the model."""
        D = self.hidden_size
        kv_size = D // self.num_attention_heads * self.key_value_heads(is_grouped)
        layer = 2 * D * D + 2 * D * kv_size + 3 * D * self.intermediate_size + 2 * D
        return self.vocab_size * D + self.num_hidden_layers * layer + D

    def with_layers(self, layers: int) -> "Shape":
        """A shape of another depth, otherwise equal."""
        return dataclasses.replace(self, num_hidden_layers=layers)


SHAPES = {
    "small": Shape(),
    "deep": Shape(num_hidden_layers=64, batch_size=1),
    "paper": Shape(
        hidden_size=2048,
        intermediate_size=8192,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=50257,
        batch_size=4,
        sequence_length=2048,
    ),
}
