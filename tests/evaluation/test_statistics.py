import math

import numpy as np
import pytest
from scipy import stats

from limelm.evaluation.statistics import (
    Interval,
    bootstrap_of_average,
    chance_level,
    constant_rate,
    error_of_average,
    loss_verdict,
    normal_interval,
    normal_interval_of_average,
    paired_bootstrap,
    standard_error,
    t_interval,
    t_quantile,
    verdict,
)

VALUES = np.random.default_rng(0).normal(0.1, 1, 400)


def test_the_standard_error_is_that_of_the_mean():
    assert standard_error(VALUES) == pytest.approx(stats.sem(VALUES))
    accuracies = [1.0] * 30 + [0.0] * 70
    assert standard_error(accuracies) == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert math.isnan(standard_error([1.0]))


def test_copies_of_an_item_in_one_group_tell_nothing_new():
    copies, groups = np.repeat(VALUES, 5), np.repeat(np.arange(400), 5).tolist()
    assert standard_error(copies, groups) == pytest.approx(standard_error(VALUES))
    assert standard_error(copies) < 0.5 * standard_error(VALUES)
    grouped, plain = paired_bootstrap(copies, groups, seed=1), paired_bootstrap(VALUES, seed=1)
    assert grouped.mean == pytest.approx(plain.mean)
    assert grouped.high - grouped.low == pytest.approx(plain.high - plain.low, rel=0.05)


def test_the_bootstrap_is_what_drawing_items_with_replacement_gives():
    values = np.random.default_rng(1).integers(-1, 2, 60).astype(float)
    generator = np.random.default_rng(2)
    naive = [generator.choice(values, values.size).mean() for _ in range(10_000)]
    interval = paired_bootstrap(values, seed=3)
    assert interval.mean == pytest.approx(values.mean())
    assert [interval.low, interval.high] == pytest.approx(np.quantile(naive, [0.025, 0.975]).tolist(), abs=0.02)


def test_groups_of_unequal_size_are_drawn_whole():
    values, groups = np.array([1.0, 1, 1, 0, 0, 1]), list("aaabcc")
    generator = np.random.default_rng(2)
    members = {group: [place for place, name in enumerate(groups) if name == group] for group in "abc"}
    naive = []
    for _ in range(10_000):
        drawn = [place for group in generator.choice(list("abc"), 3) for place in members[group]]
        naive.append(values[drawn].mean())
    interval = paired_bootstrap(values, groups, seed=3)
    assert interval.mean == pytest.approx(4 / 6)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(naive, [0.025, 0.975]).tolist(), abs=0.02)


def test_the_same_seed_gives_the_same_interval():
    assert paired_bootstrap(VALUES, seed=5) == paired_bootstrap(VALUES, seed=5) != paired_bootstrap(VALUES, seed=6)


def test_with_many_items_the_bootstrap_and_the_normal_interval_agree():
    bootstrap, normal = paired_bootstrap(VALUES), normal_interval(VALUES)
    assert [bootstrap.low, bootstrap.high] == pytest.approx([normal.low, normal.high], abs=0.01)


def test_an_average_is_of_samples_that_are_drawn_apart():
    generator = np.random.default_rng(4)
    many, few = generator.choice([-1.0, 0, 1], 300, p=[0.2, 0.5, 0.3]), np.array([1.0, 0, 0, 1, 1, 0, 0, 1])
    groups = list("aabbccdd")
    pairs = few.reshape(4, 2)  # of the few, each group as a row
    naive = [
        (generator.choice(many, many.size).mean() + pairs[generator.integers(0, 4, 4)].mean()) / 2
        for _ in range(10_000)
    ]
    samples = [(many, None), (few, groups)]
    interval = bootstrap_of_average(samples, seed=3)
    assert interval.mean == pytest.approx((many.mean() + few.mean()) / 2)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(naive, [0.025, 0.975]).tolist(), abs=0.02)
    assert interval == bootstrap_of_average(samples, seed=3) != bootstrap_of_average(samples, seed=4)
    assert bootstrap_of_average([(few, groups)], seed=3) == paired_bootstrap(few, groups, seed=3)


def test_the_error_of_an_average_is_that_of_independent_means():
    generator = np.random.default_rng(5)
    samples = [generator.normal(0, scale, (20_000, size)) for scale, size in ((1, 40), (3, 25), (0.5, 10))]
    scatter = np.std(np.mean([sample.mean(axis=1) for sample in samples], axis=0))
    assert error_of_average([1 / 40**0.5, 3 / 25**0.5, 0.5 / 10**0.5]) == pytest.approx(scatter, rel=0.02)
    one_each = [(sample[0], None) for sample in samples]
    expected = error_of_average([stats.sem(values) for values, _ in one_each])
    interval = normal_interval_of_average(one_each)
    assert interval.high - interval.mean == pytest.approx(stats.norm.ppf(0.975) * expected)
    assert interval.mean == pytest.approx(np.mean([values.mean() for values, _ in one_each]))


def covered(make, samples, truth):
    intervals = [make(sample) for sample in samples]
    return sum(interval.low <= truth <= interval.high for interval in intervals) / len(intervals)


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    many = [generator.choice([-1, 0, 1], 200, p=[0.2, 0.5, 0.3]) for _ in range(400)]
    assert 0.91 <= covered(lambda values: paired_bootstrap(values, resamples=1000), many, 0.1) <= 0.98
    assert 0.91 <= covered(normal_interval, many, 0.1) <= 0.98
    few = [generator.normal(1, 2, 5) for _ in range(400)]
    assert 0.91 <= covered(t_interval, few, 1) <= 0.98
    assert covered(lambda values: paired_bootstrap(values, resamples=1000), few, 1) < 0.9  # why there is t_interval


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 31, 200])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_s_quantiles(degrees, confidence):
    assert t_quantile(confidence, degrees) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-9)


def test_student_s_interval():
    values = [2.31, 2.29, 2.35, 2.3, 2.33]
    expected = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    interval = t_interval(values, confidence=0.9)
    assert (interval.low, interval.high) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least two"):
        t_interval([1.0])


def test_chance_and_constant_answers():
    assert chance_level([4, 4, 2]) == pytest.approx((0.25 + 0.25 + 0.5) / 3)
    assert constant_rate([0, 1, 1, 3]) == 0.5


def test_verdicts():
    better, worse, neither = Interval(0.031, 0.01, 0.05), Interval(-0.02, -0.03, -0.01), Interval(0.02, -0.01, 0.05)
    assert verdict(better) == "better by 3.1 points" and verdict(worse) == "worse by 2.0 points"
    assert verdict(neither) == verdict(better, neither) == "not distinguishable"
    assert verdict(better, Interval(0.031, math.nan, math.nan)) == "not distinguishable"


def test_verdicts_on_losses():
    assert loss_verdict(Interval(-0.0123, -0.02, -0.01), "nats") == "lower by 0.012 nats"
    assert loss_verdict(Interval(0.5, 0.4, 0.6), "nats") == "higher by 0.500 nats"
    assert loss_verdict(Interval(-0.0004, -0.0006, -0.0002), "nats") == "lower by less than 0.001 nats"
    assert loss_verdict(Interval(0.1, -0.1, 0.3), "nats") == "not distinguishable"


def test_nothing_is_no_sample():
    with pytest.raises(ValueError, match="list of numbers"):
        paired_bootstrap([])
    with pytest.raises(ValueError, match="2 values but 1"):
        paired_bootstrap([1, 2], ["a"])
