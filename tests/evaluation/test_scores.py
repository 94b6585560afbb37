"""Averages over tasks, from items whose scores are known."""

import numpy as np
import pytest

from limelm.evaluation.scores import average_rows, headline, score_rows
from limelm.evaluation.statistics import TOO_FEW
from limelm.evaluation.suites import SuiteTask

TASKS = [SuiteTask("long", 0, {"llama": 60.0, "kv": 70.0}, "Table"), SuiteTask("short", 0, {"llama": 40.0}, "Table")]


def record(task, correct, normalized=None, choices=4):
    """What a model did on a task, from which items it got right."""
    items = []
    for number, right in enumerate(correct):
        scores = {"acc": float(right)} | ({} if normalized is None else {"acc_norm": float(normalized[number])})
        likelihoods = [-1.0] * choices
        items.append(
            {"prompt_fingerprint": f"{task}{number}", "scores": scores, "log_likelihoods": likelihoods, "gold": 0}
        )
    return {"task": task, "shots": 0, "items_cut": 0, "items": items}


def models(**kinds):
    return [{"label": label, "model_type": "lime", "routing": routing} for label, routing in kinds.items()]


def averages(models, records, seed=0):
    return average_rows(models, records, score_rows(models, records, TASKS, seed), seed)


@pytest.fixture
def two():
    draw = np.random.default_rng(0)
    long, short = draw.random((2, 200)) < [[0.4], [0.6]], draw.random((2, 50)) < [[0.5], [0.7]]
    records = {
        label: [record("long", long[1 - place], long[place]), record("short", short[place], choices=2)]
        for place, label in enumerate(("first", "second"))
    }
    return models(first="none", second="kv"), records, long, short


def test_tasks_weigh_the_same_and_their_headline_counts(two):
    asked, records, long, short = two
    first, second = averages(asked, records)
    for row, place in ((first, 0), (second, 1)):
        accuracies = long[place].mean(), short[place].mean()
        variances = [values.var(ddof=1) / values.size for values in (long[place], short[place])]
        assert row["tasks"] == 2 and row["average"] == pytest.approx(np.mean(accuracies))
        assert row["standard_error"] == pytest.approx(sum(variances) ** 0.5 / 2)
        assert row["chance"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert (first["paper"], second["paper"]) == (0.5, None)  # it prints nothing for kv on the short task
    assert first["difference"] is None and first["verdict"] is None


def test_differences_are_bootstrapped_within_each_task(two):
    asked, records, long, short = two
    _, row = averages(asked, records)
    differences = [1.0 * long[1] - long[0], 1.0 * short[1] - short[0]]
    draw = np.random.default_rng(1)
    naive = [np.mean([draw.choice(values, values.size).mean() for values in differences]) for _ in range(5000)]
    assert row["difference"] == pytest.approx(np.mean([values.mean() for values in differences]))
    bounds = [row["difference_low"], row["difference_high"]]
    assert bounds == pytest.approx(np.quantile(naive, [0.025, 0.975]).tolist(), abs=0.01)
    assert bounds == pytest.approx([row["t_low"], row["t_high"]], abs=0.01)
    assert row["verdict"] == f"better by {100 * row['difference']:.1f} points"
    assert averages(asked, records) == averages(asked, records) != averages(asked, records, seed=1)


def test_only_what_all_models_ran_is_averaged(two):
    asked, records, long, short = two
    third = asked + models(third="static")
    more = records | {"third": [record("short", short[0], choices=2)]}
    assert averages(third, more) == []  # one task is no average
    more["third"].append(record("long", long[0], long[0]))
    for label in ("first", "second"):
        more[label] = [*more[label], record("other", short[0])]
    rows = averages(third, more)
    assert [(row["model"], row["tasks"]) for row in rows] == [("first", 2), ("second", 2), ("third", 2)]
    assert rows[2]["difference"] == pytest.approx(0) and rows[2]["verdict"] == "not distinguishable"


def test_a_single_model_has_an_average_too(two):
    asked, records, *_ = two
    [row] = averages(asked[:1], {"first": records["first"]})
    assert row["tasks"] == 2 and row["verdict"] is None
    assert [(row["task"], row["metric"]) for row in headline(score_rows(asked[:1], records, TASKS, 0))] == [
        ("long", "acc_norm"),
        ("short", "acc"),
    ]


def test_one_item_has_an_average_but_no_error(two):
    [row] = averages(models(first="none"), {"first": [record("long", [1]), record("short", [0])]})
    assert (row["average"], row["standard_error"]) == (0.5, None)


def test_items_of_one_passage_give_no_interval_and_no_verdict(two):
    asked, records, _, _ = two
    for own in records.values():
        for item in own[1]["items"]:
            item["group"] = "the passage"
    rows = score_rows(asked, records, TASKS, 0)
    alone = next(row for row in rows if (row["task"], row["model"]) == ("short", "second"))
    assert alone["difference"] == pytest.approx(two[3][1].mean() - two[3][0].mean())
    bounds = ("difference_low", "difference_high", "t_low", "t_high", "standard_error")
    assert all(alone[key] is None for key in bounds) and alone["verdict"] == TOO_FEW
    _, average = averages(asked, records)
    assert average["difference"] is not None and all(average[key] is None for key in bounds)
    assert average["verdict"] == TOO_FEW


@pytest.mark.parametrize("items", [1, 2, 9, 10])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_verdict_needs_ten_items_or_passages(items, grouped):
    """However clear: the second model has every answer right, the first none."""
    records = {}
    for label, right in (("first", 0), ("second", 1)):
        records[label] = [record(task, [right] * (3 * items if grouped else items)) for task in ("long", "short")]
        for place, item in enumerate(item for own in records[label] for item in own["items"]):
            if grouped:
                item["group"] = place % items
    rows = score_rows(models(first="none", second="kv"), records, TASKS, 0)
    rows += averages(models(first="none", second="kv"), records)
    told = {row["verdict"] for row in rows if row["model"] == "second"}
    assert told == ({"better by 100.0 points"} if items >= 10 else {TOO_FEW})
    above = {row["above_trivial"] for row in rows if row.get("task") and row["model"] == "second"}
    assert above == ({"yes"} if items >= 10 else {None})  # all right answers stand first, so only guessing is trivial


@pytest.mark.parametrize(("right", "above"), [(1.0, "yes"), (0.5, "yes"), (0.3, "no"), (0.0, "no")])
def test_above_trivial_answers(right, above):
    items = [record("long", [place < right * 40 for place in range(40)])]
    for place, item in enumerate(items[0]["items"]):
        item["gold"] = place % 4
    [row] = score_rows(models(one="none"), {"one": items}, TASKS, 0)
    assert (row["chance"], row["constant_rate"], row["above_trivial"]) == (0.25, 0.25, above)
    assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1


def test_all_right_is_no_certainty_where_a_constant_answer_is_nearly_as_good():
    items = [record("long", [True] * 12)]
    items[0]["items"][0]["gold"] = 1  # 11 of 12 are choice 0
    [row] = score_rows(models(one="none"), {"one": items}, TASKS, 0)
    assert (row["accuracy"], row["constant_rate"], row["standard_error"]) == (1, pytest.approx(11 / 12), 0)
    assert row["above_trivial"] == "no"


def test_where_all_right_answers_stand_first_guessing_alone_is_trivial():
    own = record("pairs", [True] * 90 + [False] * 10, choices=2)
    [row] = score_rows(models(first="none"), {"first": [own]}, [], seed=0)
    assert (row["chance"], row["constant_rate"], row["above_trivial"]) == (0.5, None, "yes")
    for item in own["items"][:30]:
        item["gold"] = 1
    [row] = score_rows(models(first="none"), {"first": [own]}, [], seed=0)
    assert row["constant_rate"] == 0.7
