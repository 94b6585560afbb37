"""What a comparison of different models hides: numbers by hand from logs written for the purpose."""

import json
import math
from pathlib import Path

import pytest

from limelm.evaluation.statistics import t_interval
from limelm.report.sections.fairness import cost_words, count_spikes, equal_parameters, fairness_records
from tests.report.synthetic import run


def write_log(entry, losses, evaluated, grad_norm=1.0):
    """A `metrics.jsonl` with held-out losses by step."""
    lines = [
        {"step": step, "tokens": 8 * step, "seconds": step, "loss": loss, "grad_norm": grad_norm * step}
        | ({"eval_loss": evaluated[step]} if step in evaluated else {})
        for step, loss in enumerate(losses, start=1)
    ]
    Path(entry["checkpoint"], "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def searched(tmp_path):
    """A run with two seeds of a LLaMA and of two other models, one of which was measured late for the first time."""
    labels = ["LLaMA", "LIMe static", "LIMe dynamic"]
    summary = run(tmp_path, labels, seeds=(1, 2)) | {"search": []}
    summary["recipe"]["learning_rates"] = [1e-3, 2e-3]
    for entry in summary["trainings"]:
        seed = entry["seed"]
        if entry["label"] == "LLaMA":
            write_log(entry, [9.0, 8, 7, 6], {2: 5.0, 4: 4.0 + seed})
        elif entry["label"] == "LIMe static":
            write_log(entry, [9.0 + 0.1 * seed, 8, 7, 6], {1: 6.0, 2: 4.5, 4: 4.0}, grad_norm=2.0)
        else:
            write_log(entry, [9.0, 8, 7, 6], {2: 4.0, 4: 3.0})
        entry["movement"] = None
    return summary


def by_model(rows):
    return {row["model"]: row for row in rows}


def test_equal_time_is_by_steps_of_measured_cost(searched):
    ratios = {"LLaMA": None, "LIMe static": 2.0, "LIMe dynamic": 9.0}
    costs = [{"model": label, "step_ratio": ratio} for label, ratio in ratios.items()]
    records = fairness_records(searched, costs)
    assert records["measured_costs"] == costs
    rows = by_model(records["equal_time"])
    assert rows.keys() == {"LIMe static", "LIMe dynamic"}
    static = rows["LIMe static"]
    assert static["step_ratio"] == 2.0 and static["mean"] == 4.5  # its second step, when LLaMA had taken four
    differences = [4.5 - 5.0, 4.5 - 6.0]
    assert static["difference"] == pytest.approx(sum(differences) / 2)
    assert static["t_low"] == pytest.approx(t_interval(differences).low) and static["lower_in"] == 2
    assert rows["LIMe dynamic"]["verdict"] == "not measured so early" and rows["LIMe dynamic"]["mean"] is None


def test_without_measured_costs_the_clocks_of_one_sitting_say_what_a_step_costs(searched):
    assert fairness_records(searched, [])["equal_time"] == []  # a search takes several
    for entry in searched["trainings"]:
        entry["tokens_per_second"] = {"LLaMA": 4.0, "LIMe static": 2.0, "LIMe dynamic": 4.0}[entry["label"]]
    rows = by_model(fairness_records(without_search(searched), [])["equal_time"])
    assert rows["LIMe static"]["step_ratio"] == 2.0 and rows["LIMe static"]["mean"] == 4.5
    assert rows["LIMe dynamic"]["step_ratio"] == 1.0 and rows["LIMe dynamic"]["mean"] == 3.0


def test_the_course_of_trainings(searched):
    rows = by_model(fairness_records(searched, [])["training_course"])
    assert rows["LLaMA"]["first_difference"] is None and rows["LIMe dynamic"]["first_difference"] == 0.0
    assert rows["LIMe static"]["first_difference"] == pytest.approx(0.2)  # the larger of two seeds
    assert rows["LIMe static"]["first_loss"] == pytest.approx(9.15)
    assert rows["LIMe static"]["largest_grad_norm"] == 8.0


def test_movement_is_relative_to_the_start_where_there_is_one(searched):
    for entry in searched["trainings"]:
        if entry["label"] == "LIMe static":
            row = {"parameters": "layers.*.w", "group": "router", "numbers": 3, "start": 2.0}
            zero = {"parameters": "layers.*.query", "group": "connections", "numbers": 5, "start": 0.0}
            entry["movement"] = [{**row, "distance": 1.0 * entry["seed"]}, {**zero, "distance": 4.0}]
    moved, from_zero = fairness_records(searched, [])["movement"]
    assert (moved["kind"], moved["distance"], moved["relative"]) == ("layers.*.w", 1.5, 0.75)
    assert (from_zero["distance"], from_zero["relative"]) == (4.0, None)


def test_equal_parameters_are_on_the_line_between_two_llamas():
    def trainings(parameters, model_type, *losses):
        return [
            {"parameters": parameters, "model_type": model_type, "eval_loss": loss, "seed": seed}
            for seed, loss in enumerate(losses)
        ]

    models = {
        "LLaMA": trainings(100, "llama", 4.0, 5.0),
        "rival": trainings(150, "lime", 3.0, 4.0),
        "wide": trainings(200, "llama", 3.0, 4.5),
        "small": trainings(100, "lime", 4.5, 5.5),
        "smaller": trainings(99, "lime", 4.5, 5.5),
        "larger": trainings(201, "lime", 4.5, 5.5),
    }
    rows = by_model(equal_parameters(models))
    assert rows.keys() == {"rival", "small"}
    assert rows["rival"]["difference"] == pytest.approx(((3.0 - 3.5) + (4.0 - 4.75)) / 2)
    assert rows["small"]["difference"] == pytest.approx(0.5) and rows["small"]["parameters"] == 100
    assert equal_parameters({label: models[label] for label in ("LLaMA", "rival")}) == []


def test_a_spike_stands_out_from_the_steps_before_it():
    falling = [9 - 0.01 * step + 0.05 * math.sin(7 * step) for step in range(200)]
    assert count_spikes(falling) == 0 and count_spikes(falling[:32]) == 0
    spiked = [loss + 2 * (step in (60, 150)) for step, loss in enumerate(falling)]
    assert count_spikes(spiked) == 2
    assert count_spikes([loss - 2 * (step == 60) for step, loss in enumerate(falling)]) == 0  # a loss that is low


def without_search(summary):
    return {key: value for key, value in summary.items() if key != "search"}


def test_a_single_seed_or_model_and_a_pretrained_model_have_none_of_it(searched):
    plain = without_search(searched)
    assert fairness_records(plain, []) != {}
    assert fairness_records({**plain, "base": "a model"}, []) == {}
    first = [entry for entry in plain["trainings"] if entry["seed"] == 1]
    assert fairness_records({**plain, "seeds": [1], "trainings": first}, []) == {}
    alone = [entry for entry in plain["trainings"] if entry["label"] == "LLaMA"]
    assert fairness_records({**searched, "trainings": alone}, []) == {}


def test_texts_say_how_costs_were_measured():
    rows = [{"model": "LLaMA", "precision": "bf16", "device": "a GPU"}]
    words = cost_words(rows)
    assert words["step_precision"] == "bfloat16" and words["costs_device"] == "a GPU"
    assert words["step_costs"] != cost_words([])["step_costs"]
