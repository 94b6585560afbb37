"""Measure what a run's models cost: time of a training step and of decoding, and bytes in the cache for each token."""

from collections.abc import Mapping
from typing import Literal

import torch
from transformers import DynamicCache, PreTrainedModel

from limelm.benchmark.shape import Inputs
from limelm.benchmark.timing import Timing, interleave
from limelm.benchmark.workloads import DECODED_TOKENS, Work, decoding, training_step
from limelm.environment import environment
from limelm.models.decoder import CACHE
from limelm.records import Record, Records

ROUNDS = 7


def measure_costs(
    models: Mapping[str, PreTrainedModel], baseline: str, inputs: Inputs, precision: Literal["fp32", "bf16"]
) -> Records:
    """Train each model on a batch, and decode one sequence with it, interleaved, on the first GPU or else on the CPU.

    Args:
        models: by label, in float32; their weights change, and they are moved to the device.
        baseline: the model that the others' times are compared with.
        inputs: the batch, and the tokens that are in the cache before decoding.
        precision: of a training step, as of a recipe: bf16 is autocast. Decoding is in float32.

    Returns:
        Records of `model`, `precision`, `device`, `step_milliseconds`, `decoding_milliseconds` per token and
        `cache_bytes` per token; and for all but the baseline the `step_ratio` and `decoding_ratio` of times with their
        quartiles (`step_lower_quartile` and so on), and `cache_ratio`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for model in models.values():
        model.to(device)
    autocast = precision == "bf16"
    steps = _timed({label: training_step("train", model, inputs, autocast) for label, model in models.items()}, device)
    decodings = _timed({label: decoding(model, inputs) for label, model in models.items()}, device)
    sizes = {label: cache_bytes_per_token(model, inputs.decode_from) for label, model in models.items()}
    return [
        {
            "model": label,
            "precision": precision,
            "device": environment()["device"],
            "step_milliseconds": 1e3 * steps[label].median,
            **_beside("step", steps, label, baseline),
            "decoding_milliseconds": 1e3 * decodings[label].median / DECODED_TOKENS,
            **_beside("decoding", decodings, label, baseline),
            "cache_bytes": size,
            "cache_ratio": size / sizes[baseline] if label != baseline else None,
        }
        for label, size in sizes.items()
    ]


def _timed(works: Mapping[str, Work], device: torch.device) -> dict[str, Timing]:
    return dict(zip(works, interleave(list(works.values()), ROUNDS, device), strict=True))


def _beside(name: str, timings: Mapping[str, Timing], label: str, baseline: str) -> Record:
    """The fields that compare a model's timing with the baseline's; None for the baseline itself."""
    beside = timings[label].beside(timings[baseline]) if label != baseline else {}
    return {
        f"{name}_ratio": beside.get("ratio"),
        f"{name}_lower_quartile": beside.get("ratio_lower_quartile"),
        f"{name}_upper_quartile": beside.get("ratio_upper_quartile"),
    }


@torch.no_grad()
def cache_bytes_per_token(model: PreTrainedModel, tokens: int) -> float:
    """Bytes that a `DynamicCache` keeps for each token of one sequence, whatever tensors a model keeps in it."""
    cache = DynamicCache(config=model.config)
    ids = torch.zeros(1, tokens, dtype=torch.long, device=model.device)
    model.eval()(input_ids=ids, **{CACHE: cache}, use_cache=True)
    kept = (value for layer in cache.layers for value in vars(layer).values() if isinstance(value, torch.Tensor))
    return sum(tensor.nbytes for tensor in kept) / tokens
