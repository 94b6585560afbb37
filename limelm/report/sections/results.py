"""The sections on losses: curves, the table of results, and how models differ, seed by seed."""

from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from limelm.evaluation.seeds import (
    COMPARISON,
    Curve,
    baseline_of,
    compare_losses,
    final_losses,
    how_much_sooner,
    in_all_seeds,
    losses_at_equal_budgets,
)
from limelm.models.flops import TRAINING_TO_FORWARD
from limelm.records import Records
from limelm.report.figures import points, training
from limelm.report.writer import Section
from limelm.training.jsonl import METRICS, ROUTERS_LOG, read_lines
from limelm.training.result import FINAL_LOSS_STEPS

MOST_SMOOTHED = 11  # steps
SMOOTHED_PART = 10  # a tenth of a run, where that is less
AXIS_NAMES = {"tokens": "tokens", "flops": "training FLOPs"}

LOSSES = (
    Section("loss_against_flops", training.loss_against_flops),
    Section("loss_over_seeds", training.loss_over_seeds),
    Section("results"),
    Section("differences", points.differences),
    Section("equal_budgets"),
    Section("sooner"),
    Section("against"),
)
ENTROPY = Section("router_entropy", training.router_entropy)


def trainings_of(summary: dict[str, Any]) -> dict[str, Records]:
    """The trainings of each model that all seeds have, by label, in the order of the seeds."""
    labels = in_all_seeds(summary)
    return {label: [entry for entry in summary["trainings"] if entry["label"] == label] for label in labels}


def is_one_environment(summary: dict[str, Any]) -> bool:
    """Whether all models were trained with the same versions, device and threads, so that speeds compare."""
    first, *others = (entry["environment"] for entry in summary["trainings"])
    return all(other == first for other in others)


def has_times(summary: dict[str, Any]) -> bool:
    """Whether the clocks of a run's trainings compare models: not those of a search, which takes several sittings."""
    return is_one_environment(summary) and "search" not in summary


def results(summary: dict[str, Any]) -> Records:
    """The results of a run, a record per model: means over seeds, and how they differ from the baseline's.

    Args:
        summary: of the run, from `limelm.training.read_summary`.
    """
    models, compares_speed = trainings_of(summary), has_times(summary)
    records = []
    for row in _compared(models, baseline_of(summary)):
        own = models[row["model"]]
        first = own[0]
        train_losses = [entry["final_train_loss"] for entry in own]
        records.append(
            {
                "model": row["model"],
                "seeds": row["seeds"],
                "parameters": first["parameters"],
                "trained_parameters": first["trainable_parameters"],
                "learning_rate": first.get("learning_rate"),
                "train_tokens": first["train_tokens"],
                "final_train_loss": None if None in train_losses else mean(train_losses),
                "eval_loss": row["mean"],
                "standard_deviation": row["standard_deviation"],
                "eval_perplexity": mean(entry["eval_perplexity"] for entry in own),
                "tokens_per_second": (compares_speed and mean(entry["tokens_per_second"] for entry in own)) or None,
                **{key: row[key] for key in COMPARISON},
            }
        )
    return records


def loss_records(summary: dict[str, Any]) -> dict[str, Records]:
    """The records of `LOSSES` and `ENTROPY`, by name; of several seeds, or in a pretrained model, there are others."""
    curves, baseline, models = loss_curves(summary), baseline_of(summary), trainings_of(summary)
    records = {"results": results(summary), "router_entropy": router_entropy(summary)}
    if "base" in summary:
        routed = {label: own for label, own in models.items() if own[0]["routing"] is not None}
        references = [label for label in models if label not in routed and label != baseline]
        records["against"] = [
            {"reference": reference, **row}
            for reference in references
            for row in _compared({reference: models[reference], **routed}, reference)
            if row["model"] != reference
        ]
    if len(summary["seeds"]) == 1:
        return {**records, "loss_against_flops": curves}
    measured = [row for row in curves if row["eval_loss"] is not None]
    losses = final_losses(losses_by_seed(models), baseline)
    if models and "base" not in summary:  # a model that is not trained spends nothing
        budgets = {
            label: {entry["seed"]: _curve(measured, label, entry["seed"]) for entry in models[label]}
            for label in models
        }
        losses = losses_at_equal_budgets(budgets, baseline)
        records["equal_budgets"] = [
            row | {"axis": AXIS_NAMES[row["axis"]]}
            for row in compare_losses(losses, baseline)
            if row["axis"] != "tokens" and len(models) > 1
        ]
        records["sooner"] = how_much_sooner(budgets, baseline)
    records["differences"] = [
        row | {"axis": AXIS_NAMES[row["axis"]], "baseline": baseline} for row in losses if row["model"] != baseline
    ]
    return {**records, "loss_over_seeds": measured}


def losses_by_seed(models: dict[str, Records]) -> dict[str, dict[int, float]]:
    """The last held-out loss of each training, by label and seed."""
    return {label: {entry["seed"]: entry["eval_loss"] for entry in own} for label, own in models.items()}


def _compared(models: dict[str, Records], reference: str) -> Records:
    rows = compare_losses(final_losses(losses_by_seed(models), reference), reference)
    return [row | {"lower_in": row["lower_in"] if row["seeds"] > 1 else None} for row in rows]


def _curve(measured: Records, label: str, seed: int) -> Curve:
    rows = [row for row in measured if (row["model"], row["seed"]) == (label, seed)]
    keys = ("train_tokens", "train_flops", "eval_loss")
    return Curve(*(np.array([row[key] for row in rows], dtype=float) for key in keys))


def loss_curves(summary: dict[str, Any]) -> Records:
    """Read losses by step, training FLOPs (Figure 1) and seconds of training from each `metrics.jsonl`.

    `smoothed_loss` is the mean over up to eleven steps around, at most a tenth of the run. A step that was only
    evaluated, as for a model that is not trained, has the held-out loss alone.
    """
    records: Records = []
    for entry in (entry for own in trainings_of(summary).values() for entry in own):
        lines = read_lines(Path(entry["checkpoint"]) / METRICS)
        smoothed = _smoothed([line.get("loss") for line in lines])
        records += [
            {
                "model": entry["label"],
                "seed": entry["seed"],
                "step": line["step"],
                "train_tokens": line["tokens"],
                "train_flops": line["tokens"] * TRAINING_TO_FORWARD * entry["flops_per_token_forward"],
                "train_seconds": line["seconds"],
                "loss": line.get("loss"),
                "smoothed_loss": around,
                "eval_loss": line.get("eval_loss"),
            }
            for line, around in zip(lines, smoothed, strict=True)
        ]
    return records


def _smoothed(losses: list[float | None]) -> list[float | None]:
    """The running mean over a window that shrinks with the run, and towards its ends."""
    half = min(MOST_SMOOTHED, len(losses) // SMOOTHED_PART) // 2
    windows = (
        [loss for loss in losses[max(0, i - half) : i + half + 1] if loss is not None] for i in range(len(losses))
    )
    return [mean(window) if window else None for window in windows]


def last_steps(curves: Records) -> str:
    """The steps over which the final training loss is a mean, in words."""
    steps = max((row["step"] for row in curves), default=0)
    if steps > FINAL_LOSS_STEPS:
        return f"last {FINAL_LOSS_STEPS} steps"
    return "the only step" if steps == 1 else f"mean of all {steps} steps"


def router_entropy(summary: dict[str, Any]) -> Records:
    """Read the entropy of each layer's routing weights at every evaluation of the first seed from each `routers.jsonl`.

    `normalized_entropy` is a part of its maximum, that of uniform weights.
    """
    return [
        {
            "model": entry["label"],
            "step": line["step"],
            "layer": layer["layer"],
            "entropy": layer["entropy"],
            "normalized_entropy": layer["normalized_entropy"],
        }
        for entry in summary["trainings"]
        if entry["seed"] == summary["seeds"][0]
        for line in read_lines(Path(entry["checkpoint"]) / ROUTERS_LOG)
        for layer in line["layers"]
    ]
