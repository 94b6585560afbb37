"""Timing on noisy machines: two runs side by side, many times, and the median of their ratios."""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from limelm.benchmark.allocator import freed_memory_is_kept
from limelm.records import Record


@dataclass(frozen=True)
class Timing:
    """Seconds of the same work in several rounds.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of the process, in all its threads; what other processes do falls on them less.
    """

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median round, by the clock."""
        return statistics.median(self.seconds)

    def beside(self, baseline: "Timing") -> Record:
        """The fields of a record that compare two timings of the same rounds."""
        ratio, lower, upper = quartiles(ratios(self.seconds, baseline.seconds))
        return {
            "milliseconds": 1e3 * self.median,
            "baseline_milliseconds": 1e3 * baseline.median,
            "ratio": ratio,
            "ratio_lower_quartile": lower,
            "ratio_upper_quartile": upper,
            "ratio_of_minima": min(self.seconds) / min(baseline.seconds),
            "cpu_milliseconds": 1e3 * statistics.median(self.cpu_seconds),
            "baseline_cpu_milliseconds": 1e3 * statistics.median(baseline.cpu_seconds),
            "cpu_ratio": _cpu_ratio(self, baseline),
            "rounds": len(self.seconds),
        }


def _cpu_ratio(own: Timing, baseline: Timing) -> float | None:
    """The median ratio of CPU times; None where a round was too short for that clock."""
    return statistics.median(ratios(own.cpu_seconds, baseline.cpu_seconds)) if all(baseline.cpu_seconds) else None


def ratios(own: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Ratios round by round."""
    return [one / other for one, other in zip(own, baseline, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return middle, lower, upper


def interleave(works: Sequence[Callable[[], object]], rounds: int, device: torch.device) -> list[Timing]:
    """Time all works once per round, in an order that rotates from round to round, after two warm-up rounds."""
    timings = [Timing() for _ in works]
    with freed_memory_is_kept() if device.type == "cpu" else contextlib.nullcontext():
        for number in range(-2, rounds):
            for position in range(len(works)):
                index = (position + number) % len(works)
                seconds, cpu_seconds = _time(works[index], device)
                if number >= 0:
                    timings[index].seconds.append(seconds)
                    timings[index].cpu_seconds.append(cpu_seconds)
    return timings


def _time(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds by the clock, and of the process."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, time.process_time() - cpu_start
