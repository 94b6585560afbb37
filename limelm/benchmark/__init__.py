"""Speed and memory beside a baseline, in one run, interleaved."""

from limelm.benchmark.attached import ATTACHED_CASES, AttachedCase, attached_cases
from limelm.benchmark.cases import CASES, Case, NativeCase
from limelm.benchmark.compare import compare, compare_depths
from limelm.benchmark.memory import check_memory
from limelm.benchmark.pruning import time_against_pruning
from limelm.benchmark.shape import PRESETS, Inputs, Shape

__all__ = [
    "ATTACHED_CASES",
    "CASES",
    "PRESETS",
    "AttachedCase",
    "Case",
    "Inputs",
    "NativeCase",
    "Shape",
    "attached_cases",
    "check_memory",
    "compare",
    "compare_depths",
    "time_against_pruning",
]
