"""Tables on a terminal: what is printed, and that it fits."""

import pytest

from limelm.evaluation.scores import average_rows, score_rows
from limelm.report.columns import aligned
from limelm.report.evaluation import perplexities_as_text, scores_as_text
from limelm.report.sections.circuits import shares_above

LABELS = ["llama", "a model with a very long name, number 1", "a model with a very long name, number 2", "x\x1b[31my"]


@pytest.fixture(scope="module")
def rows():
    models = [{"label": label, "model_type": "lime", "routing": "none"} for label in LABELS]
    records = {
        label: [_record(task, place) for task in ("logical_deduction_three_objects", "copa", "a task of one item")]
        for place, label in enumerate(LABELS)
    }
    scores = score_rows(models, records, [], seed=0)
    return scores, average_rows(models, records, scores, seed=0)


def _record(task, place):
    count = 1 if "one item" in task else 40
    items = [
        {
            "prompt_fingerprint": f"{task}{number}",
            "scores": {"acc": float(number % (place + 2) == 0)},
            "log_likelihoods": [-1.0, -2.0, -3.0],
            "gold": number % 3,
        }
        for number in range(count)
    ]
    return {"task": task, "shots": 3, "items_cut": 0, "items": items}


def test_scores_are_printed_with_their_errors_and_trivial_answers(rows):
    scores, averages = rows
    lines = scores_as_text(scores, averages).splitlines()
    assert len(lines) == 1 + len(scores) + len(averages)
    assert lines[0].split() == ["task", "model", "acc.,", "%", "±", "chance", "constant"]
    first = next(row for row in scores if (row["task"], row["model"]) == ("copa", "llama"))
    shown = [f"{100 * first[key]:.1f}" for key in ("accuracy", "standard_error", "chance", "constant_rate")]
    assert lines[5].split() == ["copa,", "3-shot", "llama", *shown]
    assert lines[9].split()[-3:] == ["-", "33.3", "-"]  # one item has no error, and any position is its constant answer
    assert lines[13].split()[:5] == ["average", "of", "3", "tasks", "llama"]


def test_the_table_fits_a_terminal_and_nothing_acts_on_it(rows):
    text = scores_as_text(*rows)
    assert max(map(len, text.splitlines())) <= 80
    assert r"x\x1b[31my" in text and "\x1b" not in text
    assert "number 1" in text and "number 2" in text  # cut in the middle: names differ at their ends


def test_bits_per_byte_are_printed_by_domain():
    rows = [
        {"model": model, "domain": domain, "bits_per_byte": value}
        for domain in ("wiki", "ne\x1bws")
        for model, value in (("a", 1.25), ("long name", 2.5))
    ]
    assert perplexities_as_text(rows).splitlines() == [
        r"bits per byte   wiki  ne\x1bws",
        "a              1.250     1.250",
        "long name      2.500     2.500",
    ]


def test_text_stands_left_and_numbers_right():
    assert aligned(["a", "b", "cc"], [["long", "", "1"]], texts=(0, 1)) == "a     b  cc\nlong      1"


def test_routes_above_chance_are_told_by_model():
    rows = [
        {"model": model, "clear": clear, "matched_percentile": matched}
        for model, clear, matched, count in (
            ("a", "yes", 99.0, 2),
            ("a", "frequent tokens", 50.0, 3),
            ("a", "no", 99.0, 1),
            ("a", "no", 95.0, 4),
            ("b", "no", 10.0, 5),
        )
        for _ in range(count)
    ]
    first, second = shares_above(rows)
    assert first == (
        "a: 50% of 10 routes are above the 95th percentile of random routes, 30% above that of random routes to "
        "equally frequent tokens (chance: 5%), 2 above both."
    )
    assert second.startswith("b: 0% of 5 routes") and second.endswith("0 above both.")
