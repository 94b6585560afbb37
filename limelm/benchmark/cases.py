"""What is compared: models by name, at a shape."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import limelm.models  # noqa: F401, registers the model types


@dataclass(frozen=True)
class Shape:
    """The sizes of all compared models, and of the batch.

    Attributes:
        grouped: number of key/value heads where a case groups its queries (G < H).
        decode_from: tokens in the cache when decoding is timed.
    """

    layers: int = 16
    hidden: int = 256
    intermediate: int = 1024
    heads: int = 8
    grouped: int = 2
    vocab: int = 4096
    batch: int = 8
    tokens: int = 256
    decode_from: int = 128

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

    def with_layers(self, layers: int) -> "Shape":
        """The same at another depth."""
        return dataclasses.replace(self, layers=layers)


PRESETS = {
    "small": Shape(),
    "deep": Shape(layers=64, batch=1),
    "paper": Shape(hidden=2048, intermediate=8192, heads=32, grouped=8, vocab=50257, batch=4, tokens=2048),
}


@dataclass(frozen=True)
class Case:
    """One model: its type, its options, and the LLaMA that it is compared with (with as many key/value heads)."""

    name: str
    model_type: str = "lime"
    options: dict[str, Any] = field(default_factory=dict)
    is_grouped: bool = False

    @property
    def baseline(self) -> "Case":
        """LLaMA with the same heads."""
        return CASES["llama-grouped" if self.is_grouped else "llama"]

    def model(self, shape: Shape, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
        """A new model with random weights."""
        config = AutoConfig.for_model(self.model_type, **shape.config_fields(self.is_grouped), **self.options)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _routed(name: str, **options: Any) -> list[Case]:
    """A routing with as many key/value heads as queries, and grouped."""
    return [Case(name, options=options), Case(f"{name}-grouped", options=options, is_grouped=True)]


CASES = {
    case.name: case
    for case in [
        Case("llama", "llama"),
        Case("llama-grouped", "llama", is_grouped=True),
        Case("none", options={"routing": "none"}),
        *_routed("static", routing="static"),
        *_routed("dynamic", routing="dynamic"),
        *_routed("kv", routing="kv"),
        Case("top-p", options={"routing": "static", "routing_top_p": 0.9}),
        Case("static-bounded", options={"routing": "static", "routing_sources": {"first": 2, "last": 1}}),
        Case("dynamic-bounded", options={"routing": "dynamic", "routing_sources": {"first": 2, "last": 1}}),
        Case("kv-bounded", options={"routing": "kv", "routing_sources": {"first": 2, "last": 1}}),
        Case("static-naive", options={"routing": "static", "routing_backend": "reference"}),
        Case("dynamic-naive", options={"routing": "dynamic", "routing_backend": "reference"}),
        Case("kv-naive", options={"routing": "kv", "routing_backend": "reference"}),
        Case("static-triton", options={"routing": "static", "routing_backend": "triton"}),
        Case("dynamic-triton", options={"routing": "dynamic", "routing_backend": "triton"}),
        Case("kv-triton", options={"routing": "kv", "routing_backend": "triton"}),
        Case("hc", "hyper_connection"),
    ]
}
#: What can be compared with LLaMA, and what is unless cases are named.
COMPARED_CASES = [name for name in CASES if CASES[name].model_type != "llama"]
DEFAULT_CASES = [name for name in COMPARED_CASES if not name.endswith(("-triton", "-bounded"))]
