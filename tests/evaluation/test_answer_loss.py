"""Losses of right answers, from items whose log-likelihoods are known."""

import numpy as np
import pytest

from limelm.evaluation.answer_loss import answer_rows
from limelm.evaluation.statistics import t_interval

MODELS = [{"label": "first"}, {"label": "second"}]


def record(items, task="task"):
    return {"task": task, "shots": 0, "items": items}


def chosen(likelihoods, gold):
    return {"log_likelihoods": likelihoods, "gold": gold}


def single(likelihood):
    return {"answer_log_likelihood": likelihood}


def test_it_is_the_loss_of_the_choice_that_is_right_not_of_the_likeliest():
    records = {"first": [record([chosen([-1.0, -3.0], 1), chosen([-2.0, -9.0], 0)])]}
    [row] = answer_rows(MODELS[:1], records)
    assert row["answer_loss"] == 2.5 and row["items"] == 2
    assert (row["low"], row["high"]) == (t_interval([3.0, 2.0]).low, t_interval([3.0, 2.0]).high)
    assert row["difference"] is None and row["verdict"] is None


def test_models_are_compared_item_by_item():
    draw = np.random.default_rng(0)
    first = draw.normal(-5, 2, 40)
    second = first + 0.1 + draw.normal(0, 0.05, 40)
    records = {label: [record([single(each) for each in own])] for label, own in (("first", first), ("second", second))}
    _, row = answer_rows(MODELS, records)
    assert row["difference"] == pytest.approx(-(second - first).mean())
    assert row["t_high"] == pytest.approx(t_interval(first - second).high)
    assert row["verdict"] == f"lower by {(second - first).mean():.3f} nats"


def test_answers_about_one_passage_count_as_one():
    items = [{**chosen([-1.0 * place, -1.0], 0), "group": place // 5} for place in range(20)]
    [row] = answer_rows(MODELS[:1], {"first": [record(items)]})
    groups = [place // 5 for place in range(20)]
    assert row["low"] == t_interval([1.0 * place for place in range(20)], groups).low


def test_of_few_items_there_is_no_interval_and_no_verdict():
    records = {label: [record([single(loss)])] for label, loss in (("first", -2.0), ("second", -1.0))}
    _, row = answer_rows(MODELS, records)
    assert row["difference"] == -1.0
    assert [row[key] for key in ("low", "high", "t_low", "t_high", "verdict")] == [None] * 5


@pytest.mark.parametrize("item", [chosen([-1.0, -2.0], None), chosen([-1.0, -2.0], -100), {}])
def test_a_task_without_one_right_answer_is_left_out(item):
    records = {"first": [record([single(-1.0), item]), record([single(-1.0)] * 3, "other")]}
    assert [row["task"] for row in answer_rows(MODELS[:1], records)] == ["other"]
