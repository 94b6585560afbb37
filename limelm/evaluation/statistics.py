"""Statistics of scores: standard errors, chance and constant answers, paired differences with intervals, verdicts.

Plain arrays in, plain numbers out; the same functions serve items of a benchmark and losses of several seeds.
"""

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 10_000
NOT_DISTINGUISHABLE = "not distinguishable"
#: Items or documents (or groups of them) below which no verdict is given, whatever the interval. Student's t expects
#: means that scatter normally. A document's bits per byte have long tails, and an item's score is 0 or 1: of fewer
#: than ten, one that is out of the ordinary decides alone, or all are equal by luck and the interval is a point.
FEWEST_FOR_VERDICT = 10
TOO_FEW = f"no verdict: fewer than {FEWEST_FOR_VERDICT}"
MANY_DEGREES = 1000  # of freedom: above, an expansion replaces the sum over all of them
_CHUNK = 2**22  # entries of the count matrix that is drawn at once


#: A number per item, and what items belong together.
Sample = tuple[ArrayLike, Sequence[Hashable] | None]


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval, in the values' own unit.

    There are no bounds, so both are None, where there are fewer than two values, or groups of them: one alone does not
    say how they scatter.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Both bounds; None where there are none."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def excludes(self, value: float) -> bool:
        """Whether there are bounds, and a value is outside of them."""
        return self.bounds is not None and (self.bounds[0] > value or self.bounds[1] < value)


def standard_deviation(values: ArrayLike) -> float | None:
    """The sample standard deviation (divided by n - 1); None for fewer than two values."""
    array = np.asarray(values, dtype=float)
    return float(array.std(ddof=1)) if len(array) > 1 else None


def standard_error(values: ArrayLike, groups: Sequence[Hashable] | None = None) -> float | None:
    """The standard error of the mean, from the values' own spread.

    Args:
        values: one number per item; 0 and 1 for accuracies.
        groups: what items belong together (answers about one passage): then the cluster-robust error, which is the
            plain one, `stdev / sqrt(n)`, where each item is its own group.

    Returns:
        None for fewer than two values, or groups of them.
    """
    sums, sizes = _totals(values, groups)
    return _ratio_error(sums, sizes) if len(sums) > 1 else None


def chance_level(choices: ArrayLike) -> float:
    """The expected accuracy of guessing uniformly; `choices` counts each item's."""
    return float(np.mean(1 / np.asarray(choices, dtype=float)))


def constant_rate(golds: Sequence[int]) -> float:
    """The accuracy of always answering the same: the share of the most frequent right position."""
    return float(np.unique(np.asarray(golds), return_counts=True)[1].max() / len(golds))


def paired_bootstrap(differences: ArrayLike, groups: Sequence[Hashable] | None = None, *, seed: int = 0) -> Interval:
    """The mean of paired differences with the 95 % percentile interval of its bootstrap distribution.

    Items (or whole groups of them) are drawn with replacement, as many as there are; the same seed gives the same
    interval. With a handful of values it is too narrow: `t_interval` is not.

    Args:
        differences: per item (or seed), second minus first.
        groups: what items belong together and are drawn together.

    Raises:
        ValueError: for no values.
    """
    return bootstrap_of_average([(differences, groups)], seed=seed)


def bootstrap_of_average(samples: Sequence[Sample], *, seed: int = 0) -> Interval:
    """The average of several samples' means (tasks weigh the same), each drawn anew from its own items.

    Args:
        samples: values and groups, each as in `paired_bootstrap`, which is this for one sample.

    Returns:
        Bounds are None where a sample has fewer than two values, or groups of them.
    """
    totals = [_totals(*sample) for sample in samples]
    mean = _average_of_means(totals)
    if _any_without_scatter(totals):
        return Interval(mean)
    generator = np.random.default_rng(seed)
    means = np.mean([_resampled_means(sums, sizes, generator) for sums, sizes in totals], axis=0)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(mean, float(low), float(high))


def t_interval(
    values: ArrayLike, groups: Sequence[Hashable] | None = None, *, confidence: float = CONFIDENCE
) -> Interval:
    """The mean with Student's interval; arguments as in `standard_error`.

    Raises:
        ValueError: for no values.
    """
    return ratio_interval(*_totals(values, groups), confidence=confidence)


def t_interval_of_average(samples: Sequence[Sample]) -> Interval:
    """The average of several independent samples' means, as in `bootstrap_of_average`, with Student's interval.

    Its degrees of freedom are those of Welch and Satterthwaite, rounded down.
    """
    totals = [_totals(*sample) for sample in samples]
    mean = _average_of_means(totals)
    if _any_without_scatter(totals):
        return Interval(mean)
    errors = [_ratio_error(*total) for total in totals]
    degrees = _welch_satterthwaite(errors, [len(sums) - 1 for sums, _ in totals])
    return student_interval(mean, error_of_average(errors), degrees)


def student_interval(mean: float, error: float, degrees: int, confidence: float = CONFIDENCE) -> Interval:
    """Student's interval of a mean with this standard error, for items, documents and seeds alike.

    Args:
        degrees: of freedom, at least one.
    """
    margin = t_quantile(confidence, degrees) * error
    return Interval(mean, mean - margin, mean + margin)


def error_of_average(errors: Sequence[float]) -> float:
    """The standard error of the average of independent means, from theirs."""
    return math.hypot(*errors) / len(errors)


def ratio_interval(sums: ArrayLike, sizes: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """A ratio of totals, such as bits per byte over documents, with Student's interval over groups.

    Args:
        sums: of each group.
        sizes: what they are per, of each group; groups of size 0 (empty documents) say nothing and do not count.
    """
    numerators, denominators = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    numerators, denominators = numerators[denominators > 0], denominators[denominators > 0]
    mean = float(numerators.sum() / denominators.sum())
    if len(numerators) < 2:
        return Interval(mean)
    return student_interval(mean, _ratio_error(numerators, denominators), len(numerators) - 1, confidence)


@functools.cache
def t_quantile(confidence: float, degrees: int) -> float:
    """The t with P(abs(T) <= t) = confidence."""
    if degrees > MANY_DEGREES:
        return _t_of_many(NormalDist().inv_cdf((1 + confidence) / 2), degrees)
    low, high = 0.0, 1.0
    while _central_t_probability(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _central_t_probability(middle, degrees) < confidence else (low, middle)
    return high


def verdict(*intervals: Interval, sample: int | None) -> str:
    """Put a difference of accuracies into words: by how many points, or that the data do not tell.

    Args:
        intervals: one or more of the same difference, made in different ways; each must exclude zero.
        sample: how many items, or groups of them, the intervals are over: below FEWEST_FOR_VERDICT there is no verdict.
            None for intervals over seeds, whose means scatter normally enough for Student's t.
    """
    if sample is not None and sample < FEWEST_FOR_VERDICT:
        return TOO_FEW
    if not all(interval.excludes(0) for interval in intervals):
        return NOT_DISTINGUISHABLE
    difference = intervals[0].mean
    return f"{'better' if difference > 0 else 'worse'} by {100 * abs(difference):.1f} points"


def loss_verdict(difference: Interval, unit: str, *, sample: int | None) -> str:
    """Put a difference of losses in `unit` into words: by how much, or that the data do not tell.

    Args:
        sample: how many documents the interval is over, or None for seeds; as in `verdict`.
    """
    if sample is not None and sample < FEWEST_FOR_VERDICT:
        return TOO_FEW
    if not difference.excludes(0):
        return NOT_DISTINGUISHABLE
    size = abs(difference.mean)
    amount = f"{size:.3f}" if size >= 0.001 else "less than 0.001"
    return f"{'lower' if difference.mean < 0 else 'higher'} by {amount} {unit}"


def is_verdict(text: str | None) -> bool:
    """Whether a table's verdict says something: it is neither missing nor withheld for want of items."""
    return text is not None and text != TOO_FEW


def sample_size(values: ArrayLike, groups: Sequence[Hashable] | None = None) -> int:
    """The number of items, or of groups where items belong together."""
    return len(_totals(values, groups)[0])


def _average_of_means(totals: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean([sums.sum() / sizes.sum() for sums, sizes in totals]))


def _any_without_scatter(totals: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    return any(len(sums) < 2 for sums, _ in totals)


def _resampled_means(sums: np.ndarray, sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The mean of each resample of groups, drawn with replacement, as many as there are: `[RESAMPLES]`."""
    # Drawing n of n groups is a multinomial draw of how often each comes; equal groups share one cell.
    cells, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    means = []
    for start in range(0, RESAMPLES, step := max(1, _CHUNK // len(cells))):
        draws = generator.multinomial(len(sums), counts / len(sums), size=min(step, RESAMPLES - start))
        means.append((draws @ cells[:, 0]) / (draws @ cells[:, 1]))
    return np.concatenate(means)


def _ratio_error(sums: np.ndarray, sizes: np.ndarray) -> float:
    """The standard error of the ratio of totals, by the scatter of two or more groups around it."""
    residuals = sums - sizes * (sums.sum() / sizes.sum())
    return float(math.sqrt(len(sums) / (len(sums) - 1) * np.square(residuals).sum()) / sizes.sum())


def _welch_satterthwaite(errors: Sequence[float], degrees: Sequence[int]) -> int:
    """The degrees of freedom of an average of independent means, from their standard errors and degrees."""
    variances = np.square(np.asarray(errors, dtype=float))
    if not variances.any():  # no scatter at all: the smallest sample says how much that is worth
        return min(degrees)
    variances = variances / variances.max()  # so that no square is lost to rounding
    return math.floor(variances.sum() ** 2 / (variances**2 / np.asarray(degrees)).sum() + 1e-9)


def _totals(values: ArrayLike, groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the size of each group, [groups] both."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"expected a list of numbers, got shape {array.shape}")
    if groups is None:
        return array, np.ones_like(array)
    if len(groups) != array.size:
        raise ValueError(f"{array.size} values but {len(groups)} group names")
    numbers: dict[Hashable, int] = {}
    places = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    return np.bincount(places, weights=array), np.bincount(places).astype(float)


def _t_of_many(z: float, degrees: int) -> float:
    """Student's quantile from the normal one, by its expansion for many degrees: Abramowitz & Stegun, 26.7.5."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def _central_t_probability(t: float, degrees: int) -> float:
    """P(abs(T) <= t) of Student's distribution: Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for factor in range(2 + odd, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (factor - 1) / factor
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
