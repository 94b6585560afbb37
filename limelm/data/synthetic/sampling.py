"""Drawing distinct problems for one side of the train/test split."""

import hashlib
import math
import random
from collections.abc import Callable, Iterable
from typing import TypeVar

from limelm.data.synthetic.problem import Problem
from limelm.errors import UserError
from limelm.progress import progress_bar

AnyProblem = TypeVar("AnyProblem", bound=Problem)

SPLITS = ("train", "test")
TEST_SHARE = 0.1  # of all problems that there are
# So many draws in a row without a new problem, and all but the least likely ones have been found.
_MOST_REPEATS = 50_000


def check_share(count: int, everything: int, split: str) -> None:
    """Refuse a count that is far more than a split's share of all problems that there are.

    Which side a problem is on follows from its hash, so the exact number is known only when all have been drawn.

    Raises:
        UserError: where it is.
    """
    share = everything * (TEST_SHARE if split == "test" else 1 - TEST_SHARE)
    if count > share + 6 * math.sqrt(everything):
        raise UserError(
            f"count={count} is too large; allowed: up to about {round(share)}, for there are {everything} different "
            f"problems of this size, {TEST_SHARE:.0%} of them in split='test'"
        )


def split_of(problem: Problem) -> str:
    """The side of the split, "train" or "test", that a problem is on, which follows from a hash of the problem alone.

    Two sets for different splits therefore share no problem, whatever seeds and counts they are drawn with.
    """
    digest = int.from_bytes(hashlib.sha256(problem.key.encode()).digest()[:8])
    return "test" if digest < TEST_SHARE * 2**64 else "train"


def draw_distinct(
    draw: Callable[[random.Random], AnyProblem], count: int, seed: int, split: str, exclude: Iterable[Problem]
) -> list[AnyProblem]:
    """The first `count` different problems of the split that `draw` finds from `seed`.

    The first k of a longer list are the list of k: the result is a prefix of one stream per seed.

    Args:
        exclude: problems to leave out besides, for instance those of a file that is tested on.

    Raises:
        UserError: for a count below 1, a seed below 0, an unknown split, or more problems than there are.
    """
    if count < 1:
        raise UserError(f"count={count} is not allowed; allowed: 1 or more")
    if seed < 0:
        raise UserError(f"seed={seed} is not allowed; allowed: 0 or more")
    if split not in SPLITS:
        raise UserError(f"split={split!r} is unknown; allowed: {', '.join(SPLITS)}")
    rng = random.Random(seed)
    with progress_bar(f"drawing {split} problems", "problem", total=count, delay=2) as bar:
        return _draw_distinct(lambda: draw(rng), count, split, {problem.key for problem in exclude}, bar.update)


def _draw_distinct(
    draw: Callable[[], AnyProblem], count: int, split: str, seen: set[str], progress: Callable[[], object]
) -> list[AnyProblem]:
    problems: list[AnyProblem] = []
    repeats = 0
    while len(problems) < count:
        problem = draw()
        if problem.key in seen or split_of(problem) != split:
            repeats += 1
            if repeats == _MOST_REPEATS:
                raise UserError(
                    f"count={count} is too large; allowed: up to {len(problems)}, "
                    f"for there are no more different problems of this size in split={split!r}"
                )
            continue
        repeats = 0
        seen.add(problem.key)
        problems.append(problem)
        progress()
    return problems
