"""Time that top-p saves at inference, against the share of routing weights that it prunes."""

from collections.abc import Iterator, Sequence

import torch

from limelm.benchmark.cases import CASES
from limelm.benchmark.compare import Conditions, Tables
from limelm.benchmark.shape import Shape
from limelm.benchmark.timing import interleave
from limelm.benchmark.workloads import WORKLOADS
from limelm.progress import progress_bar
from limelm.records import Records
from limelm.routing import routers_in

#: Spread of the routing logits; the larger, the fewer sources hold 90 % of a head's weight.
SPREADS = (0.1, 1.0, 2.0, 4.0, 8.0)


def time_against_pruning(shape: Shape, tasks: Sequence[str], conditions: Conditions) -> Iterator[Tables]:
    """Time static routing with top-p 0.9 whose logits are drawn with growing spread, LLaMA in the same rounds.

    Yields:
        After each task all so far: "pruning", a record per spread and task, the smallest `pruned_share` first, with
        times and ratios as those of `compare`.
    """
    records: Records = []
    device, dtype = conditions.device, conditions.dtype
    for task in progress_bar("bench pruning", "measurement", tasks, disable=None):
        work_of, _ = WORKLOADS[task]
        case = CASES["top-p"].at(shape)
        models = [case.model(device, dtype) for _ in SPREADS]
        shares = [_spread_logits(model, spread) for model, spread in zip(models, SPREADS, strict=True)]
        works = [work_of(model, shape) for model in [case.baseline.model(device, dtype), *models]]
        llama, *timings = interleave(works, conditions.rounds, device)
        records += [
            {"task": task, "pruned_share": share, **timing.beside(llama)}
            for share, timing in sorted(zip(shares, timings, strict=True), key=lambda pair: pair[0])
        ]
        yield {"pruning": records}


@torch.no_grad()
def _spread_logits(model: torch.nn.Module, spread: float) -> float:
    """Draw the routing logits anew; returns the share of weights that top-p then prunes."""
    routers = [router for router in routers_in(model) if router.has_choice]
    for router in routers:
        router.get_parameter("weight").normal_(std=spread)
    masks = [router.effective_weights() > 0 for router in routers]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
