"""The published problems that the generators are compared with, and the comparison."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import limelm
from limelm.data.synthetic.problem import Problem

SYNTHETIC = Path(limelm.__file__).parents[2] / "shared" / "data" / "synthetic"
ARITHMETIC = SYNTHETIC / "arithmetic"
PROSQA = SYNTHETIC / "prosqa" / "prosqa_valid.json"

needs_arithmetic = pytest.mark.skipif(not ARITHMETIC.is_dir(), reason=f"no published expressions in {ARITHMETIC}")
needs_prosqa = pytest.mark.skipif(not PROSQA.is_file(), reason=f"no published problems at {PROSQA}")


def read_chains(operators: int) -> list[Problem]:
    """The training problems of one size, with their steps."""
    lines = (ARITHMETIC / f"ops{operators}" / "chain_train_data.txt").read_text().splitlines()
    chains = [line.strip().split(" = ") for line in lines]
    return [Problem(prompt, tuple(steps), answer) for prompt, *steps, answer in chains]


def difference(one: list, other: list) -> float:
    """How unlike two samples of a discrete figure are: Pearson's chi-square of homogeneity, in standard deviations.

    About -1 to 3 where both come from the same distribution. Values seen fewer than 10 times are one class.
    """
    counts = [Counter(one), Counter(other)]
    values = [value for value, count in (counts[0] + counts[1]).items() if count >= 10]
    table = np.array([[count[value] for value in values] for count in counts], dtype=float)
    rest = np.array([[len(one)], [len(other)]]) - table.sum(axis=1, keepdims=True)
    if rest.sum() > 0:
        table = np.hstack([table, rest])
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    freedom = table.shape[1] - 1
    if freedom == 0:
        return 0.0
    return float((((table - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))
