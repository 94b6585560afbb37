"""Floating-point operations of a forward pass, counted on the meta device: exact, in seconds, at any size."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel

from limelm.models.lime import LimeConfig
from limelm.routing import readers_in

TRAINING_TO_FORWARD = 3  # a backward pass counts as two forwards, as is usual


@dataclass(frozen=True)
class ModelCost:
    """The costs of a model that follow from its configuration alone.

    Attributes:
        parameters: all parameters, tied ones once.
        forward_flops: of one sequence, two per multiply-add, in matrix products and in what is read over depth. What is
            added to a residual stream, or written to several, is not counted, like norms.
        paper_forward_flops: the same in the convention of the paper's Table 6, which counts a multiply-add of a
            projection as one operation, but attention over the full square in full: 4 T^2 H d + 3 H T^2 per layer.
        sequence_length: T, to which both belong.
    """

    parameters: int
    forward_flops: int
    paper_forward_flops: int
    sequence_length: int


def training_flops_per_token(cost: ModelCost) -> float:
    """The FLOPs of a forward and backward per token, recomputation left out."""
    return TRAINING_TO_FORWARD * cost.forward_flops / cost.sequence_length


def model_cost(config: LlamaConfig, sequence_length: int) -> ModelCost:
    """Count the parameters and the forward FLOPs of `config`'s model for one sequence.

    Attention is counted over the full T x T square, as it is usual, although half of it is masked.
    """
    if config.model_type == "llama":  # counted as LIMe without routing, the same to the bit in every transformers
        config = LimeConfig.from_dict({**config.to_dict(), "routing": "none"})
    if config.model_type == "lime":  # every product once, whatever a faster backend computes again
        config = LimeConfig.from_dict({**config.to_dict(), "routing_backend": "reference"})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return count_cost(model, sequence_length)


def count_cost(model: PreTrainedModel, sequence_length: int) -> ModelCost:
    """Count the parameters and forward FLOPs of a model on the meta device, with eager attention."""
    with torch.device("meta"):
        tokens = torch.zeros(1, sequence_length, dtype=torch.long)
        mask = torch.zeros(1, 1, sequence_length, sequence_length)  # ready-made: HF's masks need real positions
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens, attention_mask=mask, use_cache=False)
    config = model.config.get_text_config()
    flops = counter.get_total_flops() + 2 * sequence_length * _products_of_readers(model, config)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    scores = heads * sequence_length**2 * layers
    attention = 4 * scores * _head_size(config)
    return ModelCost(
        parameters=model.num_parameters(),
        forward_flops=flops,
        paper_forward_flops=(flops - attention) // 2 + attention + 3 * scores,
        sequence_length=sequence_length,
    )


def _products_of_readers(model: PreTrainedModel, config: PreTrainedConfig) -> int:
    """The multiply-adds for each token by which readers of earlier places weigh and sum, beside matrix products."""
    values = (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * _head_size(config)
    return sum(
        reader.source_products * len(reader.source_ids) * (values if reader.makes_own_source else config.hidden_size)
        for reader in readers_in(model)
        if reader.has_choice
    )


def _head_size(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
