"""The paper's printed costs (arXiv 2502.09245), and our models' costs at its 1.2 B shape."""

from dataclasses import dataclass

from transformers import LlamaConfig

from limelm.models import HyperConnectionConfig, LimeConfig
from limelm.models.flops import ModelCost, model_cost

SEQUENCE_LENGTH = 2048
SHAPE = {  # Table 4
    "vocab_size": 50257,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "max_position_embeddings": SEQUENCE_LENGTH,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class PrintedCost:
    """A row of Table 6 as printed; LIMe KV from the second version's Table 8."""

    label: str
    parameters: str
    flops: str
    training_memory: str


PRINTED = {
    "llama": PrintedCost("LLaMA", "1.1767 B", "2.97 T", "0"),
    "hc": PrintedCost("Hyper-Connections", "1.1771 B (+0.030 %)", "2.98 T (+0.3 %)", "2LBT [(R-1)D + R(R+2)]"),
    "static": PrintedCost("LIMe static", "1.1768 B (+0.008 %)", "2.98 T (+0.3 %)", "(L-1)BTHD"),
    "dynamic": PrintedCost("LIMe dynamic", "1.1856 B (+0.075 %)", "3.01 T (+1.3 %)", "BTH (L(L+1)/2-1) + (L-1)BTHD"),
    "kv": PrintedCost("LIMe KV", "1.17687 B", "3.0041 T (+1.22 %)", "not given"),
}


def costs_at_paper_scale() -> dict[str, ModelCost]:
    """Count the parameters and FLOPs of our models at the paper's shape, on the meta device."""
    configs = {
        "llama": LlamaConfig(**SHAPE),
        "hc": HyperConnectionConfig(**SHAPE),
        "static": LimeConfig(routing="static", **SHAPE),
        "dynamic": LimeConfig(routing="dynamic", **SHAPE),
        "kv": LimeConfig(routing="kv", **SHAPE),
    }
    return {name: model_cost(config, SEQUENCE_LENGTH) for name, config in configs.items()}
