"""The sections on what a comparison of different models hides: other sizes, other speeds, and how they trained."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from limelm.evaluation.seeds import COMPARISON, baseline_of, compare_losses
from limelm.records import Record, Records
from limelm.report.captions import Words
from limelm.report.sections.costs import efficiency
from limelm.report.sections.results import trainings_of
from limelm.report.writer import Section
from limelm.training.jsonl import METRICS, read_lines

SPIKE_WINDOW, SPIKE_DEVIATIONS = 32, 6  # steps before a spike, and how many of their standard deviations it stands out

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}  # of a recipe, in words

FAIRNESS = (
    Section("equal_parameters"),
    Section("measured_costs"),
    Section("equal_time"),
    Section("training_course"),
    Section("movement"),
)


def fairness_records(summary: dict[str, Any], costs: Records) -> dict[str, Records]:
    """The records of `FAIRNESS`, by name; empty for a run whose models are not compared over seeds.

    Args:
        summary: of the run, from `limelm.training.read_summary`.
        costs: of its models, from `limelm.benchmark.costs.measure_costs`. Without them the trainings' own clocks say
            what a step costs.
    """
    models, baseline = trainings_of(summary), baseline_of(summary)
    if not is_compared_over_seeds(summary) or len(models) < 2:
        return {}
    logs = {
        (label, entry["seed"]): read_lines(Path(entry["checkpoint"]) / METRICS)
        for label, own in models.items()
        for entry in own
    }
    return {
        "equal_parameters": equal_parameters(models),
        "measured_costs": costs,
        "equal_time": equal_time(logs, baseline, _step_ratios(summary, costs)),
        "training_course": training_course(logs, baseline),
        "movement": [row for label, own in models.items() for row in _movement(label, own)],
    }


def is_compared_over_seeds(summary: dict[str, Any]) -> bool:
    """Whether a run has models from scratch in several seeds, or a search for their learning rates.

    Costs of such a run are measured apart where that is possible, because each training's clock tells of its hour, too.
    """
    return "base" not in summary and ("search" in summary or len(summary["seeds"]) > 1)


def cost_words(costs: Records) -> Words:
    """Facts for the sections' texts: how the costs were measured, if they were."""
    if not costs:
        return {"step_costs": "what its training's own clock says"}
    return {
        "step_costs": "what is measured above",
        "step_precision": PRECISIONS[costs[0]["precision"]],
        "costs_device": costs[0]["device"],
    }


def _step_ratios(summary: dict[str, Any], costs: Records) -> dict[str, float]:
    """The time of a training step of each model, in that of the baseline; empty where none is known."""
    if costs:
        return {row["model"]: row["step_ratio"] for row in costs}
    speeds = {row["model"]: row["tokens_per_second_ratio"] for row in efficiency(summary)}
    return {label: 1 / speed for label, speed in speeds.items() if not math.isnan(speed)}


def equal_parameters(models: dict[str, Records]) -> Records:
    """Each model's loss beside that of a LLaMA with as many parameters, by the line between two LLaMAs of the run.

    Models outside of these LLaMAs' sizes are left out.

    Args:
        models: the trainings of each model, by its label; of every model the same seeds.

    Returns:
        Records of `model`, `parameters`, and the fields of `compare_losses`; none without two LLaMAs of other sizes.
    """
    sizes = {label: int(own[0]["parameters"]) for label, own in models.items()}
    plain = sorted((label for label in models if models[label][0]["model_type"] == "llama"), key=sizes.__getitem__)
    plain_sizes = [sizes[label] for label in plain]
    if len({*plain_sizes}) < 2:
        return []
    rows = []
    for label in models:
        if label in plain or not plain_sizes[0] <= sizes[label] <= plain_sizes[-1]:
            continue
        for entry, *of_plain in zip(models[label], *(models[each] for each in plain), strict=True):
            losses = [each["eval_loss"] for each in of_plain]
            reference = float(np.interp(sizes[label], plain_sizes, losses))
            rows.append(_difference(label, entry["seed"], entry["eval_loss"], reference))
    return [{"model": row["model"], "parameters": sizes[row["model"]], **_compared(row)} for row in _compare(rows)]


def equal_time(logs: dict[tuple[str, int], Records], baseline: str, step_ratios: Mapping[str, float]) -> Records:
    """Each model's loss at the time at which the baseline has taken its last step.

    Args:
        logs: the lines of `metrics.jsonl`, by model and seed.
        step_ratios: the time of a training step of each model but the baseline, in that of the baseline.

    Returns:
        Records of `model`, `step_ratio`, and the fields of `compare_losses`; none without `step_ratios`.
    """
    rows = []
    for (label, seed), lines in logs.items():
        if label == baseline or label not in step_ratios:
            continue
        reference = logs[baseline, seed][-1]
        measured = [line for line in lines if line.get("eval_loss") is not None]
        steps, losses = ([line[key] for line in measured] for key in ("step", "eval_loss"))
        loss = float(np.interp(reference["step"] / step_ratios[label], steps, losses, left=np.nan))
        rows.append(_difference(label, seed, loss, reference["eval_loss"]))
    return [
        {"model": row["model"], "step_ratio": step_ratios[row["model"]], **_compared(row)} for row in _compare(rows)
    ]


def training_course(logs: dict[tuple[str, int], Records], baseline: str) -> Records:
    """How the trainings of each model went: the loss before the first update, spikes, and the largest gradient.

    Returns:
        Records of `model`, `first_loss` (on the first batch, mean over seeds), `first_difference` from the baseline's
        on the same batch (the one of largest size), `spikes` (over all seeds), and `largest_grad_norm`.
    """
    records = []
    for label in dict.fromkeys(label for label, _ in logs):
        own = {seed: lines for (model, seed), lines in logs.items() if model == label}
        differences = [lines[0]["loss"] - logs[baseline, seed][0]["loss"] for seed, lines in own.items()]
        records.append(
            {
                "model": label,
                "first_loss": mean(lines[0]["loss"] for lines in own.values()),
                "first_difference": None if label == baseline else max(differences, key=abs),
                "spikes": sum(count_spikes(line["loss"] for line in lines) for lines in own.values()),
                "largest_grad_norm": max(line["grad_norm"] for lines in own.values() for line in lines),
            }
        )
    return records


def count_spikes(losses: Iterable[float]) -> int:
    """The number of steps whose loss stands out above those of the steps right before; see `SPIKE_DEVIATIONS`."""
    values = np.array(list(losses))
    if len(values) <= SPIKE_WINDOW:
        return 0
    before = np.lib.stride_tricks.sliding_window_view(values[:-1], SPIKE_WINDOW)
    return int((values[SPIKE_WINDOW:] > before.mean(axis=1) + SPIKE_DEVIATIONS * before.std(axis=1)).sum())


def _movement(label: str, own: Records) -> Records:
    """The distances of each kind of a model's mixing parameters, mean over seeds."""
    kinds: dict[tuple[str, str], Records] = {}
    for row in (row for entry in own for row in entry["movement"] or ()):
        kinds.setdefault((row["parameters"], row["group"]), []).append(row)
    return [
        {
            "model": label,
            "kind": kind,
            "group": group,
            "numbers": rows[0]["numbers"],
            "start": mean(row["start"] for row in rows),
            "distance": mean(row["distance"] for row in rows),
            "relative": mean(row["distance"] / row["start"] for row in rows)
            if all(row["start"] for row in rows)
            else None,
        }
        for (kind, group), rows in kinds.items()
    ]


def _difference(label: str, seed: int, loss: float, reference: float) -> Record:
    return {"model": label, "axis": "", "seed": seed, "loss": loss, "difference": float(loss - reference)}


def _compare(rows: Records) -> Records:
    return compare_losses(rows, baseline="")


def _compared(row: Record) -> Record:
    return {key: row[key] for key in ("seeds", "mean", "standard_deviation", *COMPARISON)}
