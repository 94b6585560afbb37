"""What top-p saves at inference, against the share of routing weights that it prunes."""

from collections.abc import Sequence
from typing import Any

import torch

from limelm.benchmark.cases import CASES, Shape
from limelm.benchmark.timing import interleave
from limelm.benchmark.workloads import WORKLOADS
from limelm.routing import StaticRouter

#: Spread of the routing logits; the larger, the fewer sources hold 90 % of a head's weight.
SPREADS = (0.1, 1.0, 2.0, 4.0, 8.0)


def time_against_pruning(
    shape: Shape, tasks: Sequence[str], rounds: int, device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Time static routing with top-p 0.9 whose logits are drawn with growing spread, LLaMA in the same rounds.

    Returns:
        One record per spread and task: `pruned_share`, `milliseconds`, `ratio` to LLaMA's.
    """
    records = []
    for task in tasks:
        work_of, _ = WORKLOADS[task]
        models = [CASES["top-p"].model(shape, device, dtype) for _ in SPREADS]
        shares = [_spread_logits(model, spread) for model, spread in zip(models, SPREADS, strict=True)]
        works = [work_of(model, shape) for model in [CASES["llama"].model(shape, device, dtype), *models]]
        llama, *timings = interleave(works, rounds, device)
        records += [
            {
                "task": task,
                "pruned_share": share,
                "milliseconds": 1e3 * timing.median,
                "llama_milliseconds": 1e3 * llama.median,
                "ratio": timing.ratio_to(llama)[0],
            }
            for share, timing in zip(shares, timings, strict=True)
        ]
    return records


@torch.no_grad()
def _spread_logits(model: torch.nn.Module, spread: float) -> float:
    """Draw the routing logits anew; returns the share of weights that top-p then prunes."""
    routers = [router for router in model.modules() if isinstance(router, StaticRouter) and router.reads]
    for router in routers:
        router.weight.normal_(std=spread)
    model.train()
    model.eval()  # freezes the masks
    masks = [router.frozen_mask for router in routers]
    kept = sum(int(mask.sum()) for mask in masks if mask is not None)
    return 1 - kept / sum(mask.numel() for mask in masks if mask is not None)
