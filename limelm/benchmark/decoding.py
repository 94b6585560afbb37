"""The cost of decoding of a run's models: time beside the baseline's, and bytes that the cache keeps for each token."""

from collections.abc import Mapping

import torch
from transformers import DynamicCache, PreTrainedModel

from limelm.benchmark.shape import Inputs
from limelm.benchmark.timing import interleave
from limelm.benchmark.workloads import DECODED_TOKENS, decoding
from limelm.models.decoder import CACHE
from limelm.records import Records

ROUNDS = 7


def decoding_costs(models: Mapping[str, PreTrainedModel], baseline: str, decode_from: int) -> Records:
    """Decode one sequence with each model, interleaved, on the CPU.

    Args:
        models: by label.
        baseline: the model that the others' times are compared with.
        decode_from: tokens in the cache at the start.

    Returns:
        Records of `model`, `milliseconds` per token, `cache_bytes` per token, and for all but the baseline the `ratio`
        of times with its quartiles, and `cache_ratio`.
    """
    inputs = Inputs(batch_size=1, decode_from=decode_from)
    works = [decoding(model, inputs) for model in models.values()]
    timings = dict(zip(models, interleave(works, ROUNDS, torch.device("cpu")), strict=True))
    sizes = {label: cache_bytes_per_token(model, decode_from) for label, model in models.items()}
    records: Records = []
    for label, timing in timings.items():
        beside = timing.beside(timings[baseline]) if label != baseline else {}
        records.append(
            {
                "model": label,
                "milliseconds": 1e3 * timing.median / DECODED_TOKENS,
                "cache_bytes": sizes[label],
                "cache_ratio": sizes[label] / sizes[baseline] if beside else None,
                **{key: beside.get(key) for key in ("ratio", "ratio_lower_quartile", "ratio_upper_quartile")},
            }
        )
    return records


@torch.no_grad()
def cache_bytes_per_token(model: PreTrainedModel, tokens: int) -> float:
    """Bytes that a `DynamicCache` keeps for each token of one sequence, whatever tensors a model keeps in it."""
    cache = DynamicCache(config=model.config)
    ids = torch.zeros(1, tokens, dtype=torch.long, device=model.device)
    model.eval()(input_ids=ids, **{CACHE: cache}, use_cache=True)
    kept = (value for layer in cache.layers for value in vars(layer).values() if isinstance(value, torch.Tensor))
    return sum(tensor.nbytes for tensor in kept) / tokens
