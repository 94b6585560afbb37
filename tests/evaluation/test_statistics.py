import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import limelm
from limelm.evaluation.statistics import (
    FEWEST_FOR_VERDICT,
    TOO_FEW,
    Interval,
    bootstrap_of_average,
    chance_level,
    constant_rate,
    error_of_average,
    is_verdict,
    loss_verdict,
    paired_bootstrap,
    ratio_interval,
    standard_deviation,
    standard_error,
    t_interval,
    t_interval_of_average,
    t_quantile,
    verdict,
)

VALUES = np.random.default_rng(0).normal(0.1, 1, 400)


def test_the_standard_error_is_that_of_the_mean():
    assert standard_error(VALUES) == pytest.approx(stats.sem(VALUES))
    accuracies = [1.0] * 30 + [0.0] * 70
    assert standard_error(accuracies) == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert standard_error([1.0]) is standard_error([1.0, 0.0], ["a", "a"]) is None


def test_the_standard_deviation_is_the_sample_s():
    assert standard_deviation(VALUES) == pytest.approx(stats.tstd(VALUES))
    assert standard_deviation([1.0]) is None


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


def test_with_many_items_the_bootstrap_and_student_s_interval_agree():
    bootstrap, student = paired_bootstrap(VALUES), t_interval(VALUES)
    assert [bootstrap.low, bootstrap.high] == pytest.approx([student.low, student.high], abs=0.01)


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
    variances = [stats.sem(values) ** 2 for values, _ in one_each]
    degrees = sum(variances) ** 2 / sum(v**2 / (len(s) - 1) for v, (s, _) in zip(variances, one_each, strict=True))
    interval = t_interval_of_average(one_each)
    assert interval.high - interval.mean == pytest.approx(stats.t.ppf(0.975, math.floor(degrees)) * expected)
    assert interval.mean == pytest.approx(np.mean([values.mean() for values, _ in one_each]))


def covered(make, samples, truth):
    intervals = [make(sample) for sample in samples]
    return sum(interval.low <= truth <= interval.high for interval in intervals) / len(intervals)


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    many = [generator.choice([-1, 0, 1], 200, p=[0.2, 0.5, 0.3]) for _ in range(400)]
    assert 0.91 <= covered(paired_bootstrap, many, 0.1) <= 0.98
    assert 0.91 <= covered(t_interval, many, 0.1) <= 0.98
    few = [generator.normal(1, 2, 5) for _ in range(400)]
    assert 0.91 <= covered(t_interval, few, 1) <= 0.98
    assert covered(paired_bootstrap, few, 1) < 0.9  # why there is t_interval


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 31, 200, 1000, 1001, 10**6])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_s_quantiles(degrees, confidence):
    assert t_quantile(confidence, degrees) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-9)


def test_student_s_interval():
    values = [2.31, 2.29, 2.35, 2.3, 2.33]
    expected = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    interval = t_interval(values, confidence=0.9)
    assert (interval.low, interval.high) == interval.bounds == pytest.approx(expected)


@pytest.mark.parametrize("groups", [None, ["a"]])
@pytest.mark.parametrize("make", [t_interval, paired_bootstrap])
def test_one_value_has_a_mean_and_no_bounds(make, groups):
    assert make([0.25], groups) == Interval(0.25, None, None) == Interval(0.25)
    assert make([0.25], groups).bounds is None


def test_what_an_interval_excludes():
    interval = Interval(2.0, 1.0, 3.0)
    assert [value for value in (0, 1, 2, 3, 4) if interval.excludes(value)] == [0, 4]
    assert not Interval(2.0).excludes(0) and not Interval(2.0, math.nan, math.nan).excludes(0)


@pytest.mark.parametrize("documents", [2, 3, 5, 9])
def test_intervals_over_few_documents_cover_the_truth_too(documents):
    """Bits per byte of documents of unequal length; the normal interval of two covers it in two thirds only."""
    generator = np.random.default_rng(documents)
    samples = [generator.integers(200, 300, documents) for _ in range(400)]
    samples = [(sizes * generator.normal(1, 0.2, documents), sizes) for sizes in samples]
    assert 0.91 <= covered(lambda sample: ratio_interval(*sample), samples, 1) <= 0.98
    narrow = covered(lambda sample: ratio_interval(*sample, confidence=_same_width(documents)), samples, 1)
    assert narrow < 0.93


def _same_width(documents):
    """The confidence at which Student's interval is as wide as the normal one at 95 %."""
    return 1 - 2 * stats.t.sf(stats.norm.ppf(0.975), documents - 1)


def test_empty_documents_say_nothing():
    assert ratio_interval([3.0, 0, 5, 0], [2, 0, 4, 0]) == ratio_interval([3.0, 5], [2, 4])
    assert ratio_interval([3.0, 0], [2, 0]) == Interval(1.5, None, None)


def test_groups_count_once_for_student_s_interval():
    copies, groups = np.repeat([0.1, 0.3, 0.2], 4), list("aaaabbbbcccc")
    assert t_interval(copies, groups).high == pytest.approx(t_interval([0.1, 0.3, 0.2]).high)
    assert t_interval(copies, ["a"] * 12) == Interval(pytest.approx(0.2), None, None)


def test_an_average_without_scatter_has_the_degrees_of_its_smallest_sample():
    equal = t_interval_of_average([(np.ones(3), None), (np.zeros(40), None)])
    assert (equal.mean, equal.low, equal.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("make", [t_interval_of_average, bootstrap_of_average])
@pytest.mark.parametrize("alone", [([0.0], None), ([0.0, 0.0], ["a", "a"])])
def test_an_average_with_a_sample_of_one_has_no_bounds(make, alone):
    assert make([(np.ones(3), None), alone]) == Interval(0.5, None, None)


def test_no_other_file_makes_intervals_of_its_own():
    """A normal quantile elsewhere is an interval that is too narrow for few values."""
    for path in Path(limelm.__file__).parent.rglob("*.py"):
        if path.name != "statistics.py":
            assert not re.search(r"1\.96|NormalDist|norm\.ppf", path.read_text(encoding="utf-8")), path


def test_chance_and_constant_answers():
    assert chance_level([4, 4, 2]) == pytest.approx((0.25 + 0.25 + 0.5) / 3)
    assert constant_rate([0, 1, 1, 3]) == 0.5


@pytest.mark.parametrize("sample", [None, FEWEST_FOR_VERDICT, 500])
def test_verdicts(sample):
    better, worse, neither = Interval(0.031, 0.01, 0.05), Interval(-0.02, -0.03, -0.01), Interval(0.02, -0.01, 0.05)
    assert verdict(better, sample=sample) == "better by 3.1 points"
    assert verdict(worse, sample=sample) == "worse by 2.0 points"
    assert verdict(neither, sample=sample) == verdict(better, neither, sample=sample) == "not distinguishable"
    assert verdict(better, Interval(0.031), sample=sample) == "not distinguishable"


@pytest.mark.parametrize("sample", [None, FEWEST_FOR_VERDICT, 500])
def test_verdicts_on_losses(sample):
    assert loss_verdict(Interval(-0.0123, -0.02, -0.01), "nats", sample=sample) == "lower by 0.012 nats"
    assert loss_verdict(Interval(0.5, 0.4, 0.6), "nats", sample=sample) == "higher by 0.500 nats"
    tiny = Interval(-0.0004, -0.0006, -0.0002)
    assert loss_verdict(tiny, "nats", sample=sample) == "lower by less than 0.001 nats"
    assert loss_verdict(Interval(0.1, -0.1, 0.3), "nats", sample=sample) == "not distinguishable"


@pytest.mark.parametrize("sample", [1, 2, FEWEST_FOR_VERDICT - 1])
def test_of_few_there_is_no_verdict_however_clear_it_looks(sample):
    clear = Interval(0.5, 0.49, 0.51)
    assert verdict(clear, sample=sample) == loss_verdict(clear, "nats", sample=sample) == TOO_FEW
    assert "10" in TOO_FEW and not is_verdict(TOO_FEW) and not is_verdict(None)
    assert is_verdict(verdict(clear, sample=FEWEST_FOR_VERDICT)) and is_verdict("not distinguishable")


def test_nothing_is_no_sample():
    with pytest.raises(ValueError, match="list of numbers"):
        paired_bootstrap([])
    with pytest.raises(ValueError, match="list of numbers"):
        t_interval([])
    with pytest.raises(ValueError, match="2 values but 1"):
        paired_bootstrap([1, 2], ["a"])
