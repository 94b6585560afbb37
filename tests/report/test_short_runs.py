"""Short runs and shallow models are drawn rightly: nothing is invisible, and nothing lies outside of the axes."""

import numpy as np
import pytest

from limelm.report.figures import points, routing, states, training
from limelm.report.figures.palette import Palette
from limelm.report.run import write_run
from limelm.report.sections.results import loss_curves
from tests.report.synthetic import Study, run

MODELS = {"LLaMA": None, "LIMe static": "static", "LIMe KV": "kv"}
PALETTE = Palette(MODELS)
INVISIBLE = {None, "None", "none", "", " "}


def check(figure, dots=0):
    """Every line that holds data is seen, and ends within its axes."""
    figure.canvas.draw()
    seen = 0
    for axes in figure.axes:
        (left, right), (bottom, top) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        for line in axes.lines:
            x, y = (np.asarray(data, dtype=float) for data in line.get_data())
            there = np.isfinite(x) & np.isfinite(y)
            if not there.any() or not line.get_transform().contains_branch(axes.transData):
                continue
            seen += 1
            assert there.sum() > 1 or line.get_marker() not in INVISIBLE, line
            if all(line.get_transform().contains_branch_seperately(axes.transData)):  # not a line across the axes
                assert ((left <= x[there]) & (x[there] <= right)).all(), line
                assert ((bottom <= y[there]) & (y[there] <= top)).all(), line
    assert seen >= dots


@pytest.mark.parametrize("steps", [1, 2, 6, 19, 20, 120])
def test_losses_of_a_run_of_any_length(tmp_path, steps):
    measured = loss_curves(run(tmp_path, MODELS, steps=steps))
    figure = training.loss_against_flops(measured, PALETTE)
    check(figure, dots=3 * len(MODELS))
    drawn = {float(y) for line in figure.axes[0].lines for y in line.get_ydata()}
    assert {row[key] for row in measured for key in ("loss", "eval_loss") if row[key] is not None} <= drawn


@pytest.mark.parametrize(("steps", "window"), [(1, 1), (6, 1), (19, 1), (20, 3), (60, 7), (109, 11), (1000, 11)])
def test_losses_are_smoothed_over_at_most_a_tenth_of_the_run(tmp_path, steps, window):
    rows = [row for row in loss_curves(run(tmp_path, MODELS, steps=steps)) if row["model"] == "LLaMA"]
    middle, half = steps // 2, window // 2
    around = [row["loss"] for row in rows[middle - half : middle + half + 1]]
    assert len(around) == window <= max(1, steps / 10 + 1)
    assert rows[middle]["smoothed_loss"] == pytest.approx(sum(around) / window)
    assert rows[0]["smoothed_loss"] == pytest.approx(np.mean([row["loss"] for row in rows[: half + 1]]))


@pytest.mark.parametrize(
    ("steps", "said"),
    [(1, "the only step"), (6, "mean of all 6 steps"), (10, "mean of all 10 steps"), (11, "last 10 steps")],
)
def test_the_table_says_over_which_steps_the_training_loss_is(tmp_path, steps, said):
    page = write_run(tmp_path, run(tmp_path / "models", MODELS, steps=steps), {}).read_text()
    assert f">training loss, {said}<" in page


def test_a_model_that_is_not_trained_has_a_held_out_loss_alone(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "metrics.jsonl").write_text('{"step": 0, "tokens": 0, "seconds": 0.0, "eval_loss": 2.5}\n')
    entry = {"seed": 1, "label": "base", "checkpoint": str(tmp_path / "base"), "flops_per_token_forward": 1}
    (row,) = loss_curves({"seeds": [1], "trainings": [entry]})
    assert (row["step"], row["loss"], row["smoothed_loss"], row["eval_loss"]) == (0, None, None, 2.5)
    check(training.loss_against_flops([row], Palette(["base"])), dots=1)


@pytest.mark.parametrize("evaluations", [1, 2, 5])
def test_seeds_with_few_evaluations(evaluations):
    rows = [
        {"model": model, "seed": seed, "train_flops": 100.0 * (step + 1), "eval_loss": 5.0 + seed - step}
        for model in MODELS
        for seed in (1, 2)
        for step in range(evaluations)
    ]
    check(training.loss_over_seeds(rows, PALETTE), dots=3 * len(MODELS))


@pytest.mark.parametrize("evaluations", [1, 3])
def test_router_entropy_after_few_evaluations(evaluations):
    rows = [
        {"model": "LIMe static", "step": step, "layer": layer, "normalized_entropy": 1 / (step + layer)}
        for step in range(1, evaluations + 1)
        for layer in (1, 2)
    ]
    check(training.router_entropy(rows), dots=2)


@pytest.mark.parametrize("layers", [1, 2, 3, 8])
def test_models_of_any_depth(layers):
    records = Study(MODELS, layers=layers, top_p=["LIMe static"]).analysis()["records"]
    values = {
        name: [row for row in records[name] if row["states"] != "hidden states"] for name in ("entropy", "separability")
    }
    check(states.matrix_entropy(values["entropy"], PALETTE), dots=3)
    check(states.separability(values["separability"], PALETTE), dots=3)
    check(states.cosine(records["cosine"], PALETTE), dots=6)
    check(states.logit_lens(records["logit_lens"], PALETTE), dots=9)
    check(states.gradient_norms(records["gradients"], PALETTE), dots=3)
    if layers > 1:
        check(routing.mean_retrieval(records["mean_retrieval"], PALETTE), dots=3)
        check(routing.self_retrieval(records["self_retrieval"], PALETTE), dots=2 * (4 + 2))
        check(routing.self_retrieval_by_layer(records["self_retrieval_by_layer"], PALETTE), dots=3)
        check(routing.expected_source(records["expected_source"], PALETTE), dots=4)
        check(routing.retrieval_under_top_p(records["retrieval_under_top_p"]), dots=2)


def test_one_seed_one_task_one_domain():
    scores = [{"task": "copy", "chance": 0.1, "model": model, "seed": 1, "accuracy": 0.5} for model in MODELS]
    check(points.right_answers(scores, PALETTE), dots=6)
    bits = [{"group": "wiki", "model": model, "value": 1.5, "low": None, "high": None} for model in MODELS]
    with points.grouped_points(bits, PALETTE, "bits per byte") as (figure, _):
        pass
    check(figure, dots=3)


def test_a_budget_at_which_nothing_was_measured_has_no_panel():
    rows = [
        {"model": "LIMe", "baseline": "LLaMA", "axis": axis, "seed": seed, "difference": difference}
        for axis, difference in (("tokens", -0.1), ("training FLOPs", float("nan")))
        for seed in (1, 2)
    ]
    drawn = points.differences(rows, Palette(["LLaMA", "LIMe"]))
    assert [axes.get_title() for axes in drawn.axes] == ["at equal tokens"]
