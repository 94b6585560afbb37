"""Timing on noisy machines: two runs side by side, many times, and the median of their ratios."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from limelm.records import Record


@dataclass(frozen=True)
class Timing:
    """Seconds of the same work in several rounds."""

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        """The median round."""
        return statistics.median(self.seconds)

    def ratio_to(self, baseline: "Timing") -> tuple[float, float, float]:
        """Median, lower and upper quartile of the ratios round by round."""
        ratios = [own / other for own, other in zip(self.seconds, baseline.seconds, strict=True)]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, lower, upper

    def beside(self, baseline: "Timing") -> Record:
        """The fields of a record that compare two timings of the same rounds."""
        ratio, lower, upper = self.ratio_to(baseline)
        return {
            "milliseconds": 1e3 * self.median,
            "baseline_milliseconds": 1e3 * baseline.median,
            "ratio": ratio,
            "ratio_lower_quartile": lower,
            "ratio_upper_quartile": upper,
            "rounds": len(self.seconds),
        }


def interleave(works: Sequence[Callable[[], object]], rounds: int, device: torch.device) -> list[Timing]:
    """Time all works once per round, in an order that rotates from round to round, after two warm-up rounds."""
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(-2, rounds):
        for position in range(len(works)):
            index = (position + number) % len(works)
            elapsed = _seconds(works[index], device)
            if number >= 0:
                seconds[index].append(elapsed)
    return [Timing(values) for values in seconds]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
