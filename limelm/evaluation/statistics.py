"""What a number is worth: standard errors, chance and constant answers, paired differences with intervals, verdicts.

Plain arrays in, plain numbers out; the same functions serve items of a benchmark and losses of several seeds.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 10_000
NOT_DISTINGUISHABLE = "not distinguishable"
_CHUNK = 2**22  # entries of the count matrix that is drawn at once


#: A number per item, and what items belong together.
Sample = tuple[ArrayLike, Sequence[Hashable] | None]


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval, in the values' own unit."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside."""
        return self.low > 0 or self.high < 0


def standard_error(values: ArrayLike, groups: Sequence[Hashable] | None = None) -> float:
    """Of the mean, from the values' own spread.

    Args:
        values: one number per item; 0 and 1 for accuracies.
        groups: what items belong together (answers about one passage): then the cluster-robust error, which is the
            plain one, `stdev / sqrt(n)`, where each item is its own group.

    Returns:
        NaN where there are fewer than two groups.
    """
    return _ratio_error(*_totals(values, groups))


def chance_level(choices: ArrayLike) -> float:
    """The expected accuracy of guessing uniformly; `choices` counts each item's."""
    return float(np.mean(1 / np.asarray(choices, dtype=float)))


def constant_rate(golds: Sequence[int]) -> float:
    """What always giving the same choice would score: the share of the most frequent right position."""
    return float(np.unique(np.asarray(golds), return_counts=True)[1].max() / len(golds))


def paired_bootstrap(
    differences: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of paired differences with the percentile interval of its bootstrap distribution.

    Items (or whole groups of them) are drawn with replacement, as many as there are; the same seed gives the same
    interval. With a handful of values it is too narrow: use `t_interval` for seeds.

    Args:
        differences: per item (or seed), second minus first.
        groups: what items belong together and are drawn together.

    Raises:
        ValueError: for no values.
    """
    return bootstrap_of_average([(differences, groups)], seed=seed, resamples=resamples, confidence=confidence)


def bootstrap_of_average(
    samples: Sequence[Sample], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval:
    """The average of several samples' means (tasks weigh the same), each drawn anew from its own items.

    Args:
        samples: values and groups, each as in `paired_bootstrap`, which is this for one sample.
    """
    totals = [_totals(*sample) for sample in samples]
    generator = np.random.default_rng(seed)
    means = np.mean([_resampled_means(sums, sizes, generator, resamples) for sums, sizes in totals], axis=0)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(np.mean([sums.sum() / sizes.sum() for sums, sizes in totals])), float(low), float(high))


def normal_interval(
    values: ArrayLike, groups: Sequence[Hashable] | None = None, *, confidence: float = CONFIDENCE
) -> Interval:
    """The mean with the interval of the normal approximation; arguments as in `standard_error`."""
    return normal_interval_of_average([(values, groups)], confidence=confidence)


def normal_interval_of_average(samples: Sequence[Sample], *, confidence: float = CONFIDENCE) -> Interval:
    """The average of several samples' means, as in `bootstrap_of_average`, by the normal approximation."""
    mean = float(np.mean([np.mean(np.asarray(values, dtype=float)) for values, _ in samples]))
    error = error_of_average([standard_error(*sample) for sample in samples])
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Interval(mean, mean - margin, mean + margin)


def error_of_average(errors: Sequence[float]) -> float:
    """The standard error of the average of independent means, from theirs."""
    return math.hypot(*errors) / len(errors)


def ratio_interval(sums: ArrayLike, sizes: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """A ratio of totals, such as bits per byte over documents, with the interval of the normal approximation.

    Args:
        sums: of each group; sizes: what they are per. The interval is over groups.
    """
    numerators, denominators = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    mean = float(numerators.sum() / denominators.sum())
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * _ratio_error(numerators, denominators)
    return Interval(mean, mean - margin, mean + margin)


def t_interval(values: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """The mean with Student's interval, which is right for few values (seeds) that scatter normally.

    Raises:
        ValueError: for fewer than two values.
    """
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        raise ValueError(f"an interval needs at least two values, got {array.size}")
    mean = float(array.mean())
    margin = t_quantile(confidence, array.size - 1) * standard_error(array)
    return Interval(mean, mean - margin, mean + margin)


def t_quantile(confidence: float, degrees: int) -> float:
    """The t with P(|T| <= t) = confidence, by bisection of `_central_t_probability`."""
    low, high = 0.0, 1.0
    while _central_t_probability(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _central_t_probability(middle, degrees) < confidence else (low, middle)
    return high


def verdict(*intervals: Interval) -> str:
    """In words, for a difference of accuracies: by how many points, or that the data do not tell.

    Args:
        intervals: one or more of the same difference, made in different ways; each must exclude zero.
    """
    if not all(interval.excludes_zero for interval in intervals):
        return NOT_DISTINGUISHABLE
    difference = intervals[0].mean
    return f"{'better' if difference > 0 else 'worse'} by {100 * abs(difference):.1f} points"


def loss_verdict(difference: Interval, unit: str) -> str:
    """In words, for a difference of losses in `unit`: by how much, or that the data do not tell."""
    if not difference.excludes_zero:
        return NOT_DISTINGUISHABLE
    size = abs(difference.mean)
    amount = f"{size:.3f}" if size >= 0.001 else "less than 0.001"
    return f"{'lower' if difference.mean < 0 else 'higher'} by {amount} {unit}"


def _resampled_means(sums: np.ndarray, sizes: np.ndarray, generator: np.random.Generator, resamples: int) -> np.ndarray:
    """The mean of each resample of groups, drawn with replacement, as many as there are: `[resamples]`."""
    # Drawing n of n groups is a multinomial draw of how often each comes; equal groups share one cell.
    cells, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    means = []
    for start in range(0, resamples, step := max(1, _CHUNK // len(cells))):
        draws = generator.multinomial(len(sums), counts / len(sums), size=min(step, resamples - start))
        means.append((draws @ cells[:, 0]) / (draws @ cells[:, 1]))
    return np.concatenate(means)


def _ratio_error(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Of the ratio of the totals, by the scatter of the groups around it; NaN for fewer than two groups."""
    if len(sums) < 2:
        return math.nan
    residuals = sums - sizes * (sums.sum() / sizes.sum())
    return float(math.sqrt(len(sums) / (len(sums) - 1) * np.square(residuals).sum()) / sizes.sum())


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


def _central_t_probability(t: float, degrees: int) -> float:
    """P(|T| <= t) of Student's distribution: Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for factor in range(2 + odd, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (factor - 1) / factor
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
