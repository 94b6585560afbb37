"""Speed and memory beside LLaMA, in one run, interleaved."""

from limelm.benchmark.cases import CASES, PRESETS, Case, Shape
from limelm.benchmark.compare import compare, compare_depths
from limelm.benchmark.pruning import time_against_pruning

__all__ = ["CASES", "PRESETS", "Case", "Shape", "compare", "compare_depths", "time_against_pruning"]
