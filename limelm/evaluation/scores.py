"""Tables of scores, made from items: accuracies with errors, averages, and paired differences on the same items."""

import math
from typing import Any

import numpy as np

from limelm.evaluation.items import correct
from limelm.evaluation.statistics import (
    CONFIDENCE,
    FEWEST_FOR_VERDICT,
    Sample,
    bootstrap_of_average,
    chance_level,
    constant_rate,
    error_of_average,
    sample_size,
    standard_error,
    t_interval,
    t_interval_of_average,
    t_quantile,
    verdict,
)
from limelm.evaluation.suites import SuiteTask, paper_kind
from limelm.records import Record, Records

#: The metric that the paper's numbers most likely are, where a task has both.
PREFERRED = "acc_norm"


def score_rows(models: Records, records: dict[str, Records], tasks: list[SuiteTask], seed: int) -> Records:
    """One row for each task, metric and model; differences are to the first model that ran the task.

    Args:
        models: facts about each, in order.
        records: what each model did, by its label.
        tasks: what was asked for, with the paper's values.
        seed: of the bootstrap.

    Returns:
        Rows of plain numbers; accuracies and differences are shares of 1, the paper's values too. None where there is
        nothing: no chance level without choices, no difference for the first model.
    """
    printed = {(task.name, task.shots): task for task in tasks}
    rows = []
    for key, ran in by_task(models, records).items():
        first = ran[0][1]
        for metric in first["items"][0]["scores"]:
            for model, record in ran:
                row = _row(model, record, metric)
                row |= _paper(model, metric, first, printed.get(key))
                row |= (
                    dict.fromkeys(_COMPARED)
                    if record is first
                    else _comparison([_differences(record, first, metric)], seed)
                )
                rows.append(row)
    return rows


def by_task(models: Records, records: dict[str, Records]) -> dict[tuple[str, int], list[tuple[Record, Record]]]:
    """The models that ran a task and what each did there, in the models' order, by the task and its shots."""
    ran: dict[tuple[str, int], list[tuple[Record, Record]]] = {
        (record["task"], record["shots"]): [] for own in records.values() for record in own
    }
    for model in models:
        for record in records[model["label"]]:
            ran[record["task"], record["shots"]].append((model, record))
    return ran


def headline(rows: Records) -> Records:
    """Choose from `score_rows` one metric per task: `acc_norm` where there is one, else the first."""
    chosen: dict[tuple[str, int], str] = {}
    for row in rows:
        key = row["task"], row["shots"]
        if key not in chosen or row["metric"] == PREFERRED:
            chosen[key] = row["metric"]
    return [row for row in rows if row["metric"] == chosen[row["task"], row["shots"]]]


def average_rows(models: Records, records: dict[str, Records], rows: Records, seed: int) -> Records:
    """One row per model: the mean of `headline` over the tasks that all models ran, each task weighing the same.

    Args:
        models, records, seed: as in `score_rows`.
        rows: what it gave.

    Returns:
        Rows of shares of 1, `paper` and `chance` where all tasks have them, the difference to the first model; none
        where there are fewer than two such tasks.
    """
    tasks: dict[tuple[str, int], dict[str, Record]] = {}
    for row in headline(rows):
        tasks.setdefault((row["task"], row["shots"]), {})[row["model"]] = row
    shared = {task: by_model for task, by_model in tasks.items() if len(by_model) == len(models)}
    if len(shared) < 2:
        return []
    ran = {(label, record["task"], record["shots"]): record for label, own in records.items() for record in own}
    first = models[0]["label"]
    averages = []
    for label in (model["label"] for model in models):
        own = [by_model[label] for by_model in shared.values()]
        errors = [row["standard_error"] for row in own]
        averages.append(
            {
                "model": label,
                "tasks": len(own),
                "average": _average(own, "accuracy"),
                "standard_error": None if None in errors else error_of_average(errors),
                **{key: _average(own, key) for key in ("chance", "constant_rate", "paper")},
            }
        )
        if label == first:
            averages[-1] |= dict.fromkeys(_COMPARED)
        else:
            pairs = [
                _differences(ran[label, *task], ran[first, *task], row["metric"])
                for task, row in zip(shared, own, strict=True)
            ]
            averages[-1] |= _comparison(pairs, seed)
    return averages


_COMPARED = ("difference", "difference_low", "difference_high", "t_low", "t_high", "verdict")


def _row(model: Record, record: Record, metric: str) -> Record:
    items = record["items"]
    accuracies, groups = correct(items, metric), groups_of(items)
    golds = [item.get("gold") for item in items]
    has_gold = all(gold is not None for gold in golds)
    chance = chance_level([len(item["log_likelihoods"]) for item in items]) if has_gold else None
    constant = constant_rate(golds) if has_gold and len(set(golds)) > 1 else None  # in BLiMP a position says nothing
    accuracy, error = sum(accuracies) / len(accuracies), standard_error(accuracies, groups)
    return {
        "task": record["task"],
        "shots": record["shots"],
        "metric": metric,
        "model": model["label"],
        "items": len(items),
        "items_cut": record["items_cut"],
        "accuracy": accuracy,
        "standard_error": error,
        **_bounds_of_mean(accuracies, groups),
        "chance": chance,
        "constant_rate": constant,
        "above_trivial": _above_trivial(accuracy, error, chance, constant, sample_size(accuracies, groups)),
    }


def _bounds_of_mean(accuracies: list[float], groups: list[Any] | None) -> Record:
    """Student's 95 % interval of an accuracy, within 0 and 1."""
    bounds = t_interval(accuracies, groups).bounds
    return {"low": bounds and max(bounds[0], 0.0), "high": bounds and min(bounds[1], 1.0)}


def _above_trivial(
    accuracy: float, error: float | None, chance: float | None, constant: float | None, sample: int
) -> str | None:
    """Whether a score is better than guessing and than always giving the same answer; None if that cannot be said.

    Where the right answer of all items stands in the same place, as in BLiMP, guessing alone counts.

    The margin is that of Student's 95 % interval. Its standard error is not taken below the one that a score at the
    trivial level would have: where all answers are right, the items' own scatter is zero.
    """
    if chance is None or error is None or sample < FEWEST_FOR_VERDICT:
        return None
    trivial = max(chance, constant or 0.0)
    error = max(error, math.sqrt(trivial * (1 - trivial) / sample))
    return "yes" if accuracy - trivial > t_quantile(CONFIDENCE, sample - 1) * error else "no"


def _paper(model: Record, metric: str, first: Record, task: SuiteTask | None) -> Record:
    """The paper's value for a model of this kind, on the metric that it most likely used."""
    metrics = first["items"][0]["scores"]
    used = PREFERRED if PREFERRED in metrics else "acc"
    value = None
    if task is not None and metric == used:
        value = task.printed.get(paper_kind(model["model_type"], model["routing"], model.get("connection")) or "")
    return {"paper": None if value is None else value / 100, "paper_table": task.table if task and value else None}


def _differences(record: Record, first: Record, metric: str) -> Sample:
    """The paired differences item by item, and the groups of items that belong together."""
    ours, theirs = record["items"], first["items"]
    if [item["prompt_fingerprint"] for item in ours] != [item["prompt_fingerprint"] for item in theirs]:
        raise ValueError(f"{record['task']}: the models were asked different items")
    return np.subtract(correct(ours, metric), correct(theirs, metric)), groups_of(ours)


def _comparison(differences: list[Sample], seed: int) -> Record:
    """The difference of two models' means over one task's items, or of their averages over several tasks.

    Where all items of a task belong together, nothing can be said of how much it scatters: there is no interval.
    """
    bootstrap, student = bootstrap_of_average(differences, seed=seed), t_interval_of_average(differences)
    said = verdict(bootstrap, student, sample=min(sample_size(*sample) for sample in differences))
    values = (bootstrap.mean, bootstrap.low, bootstrap.high, student.low, student.high, said)
    return dict(zip(_COMPARED, values, strict=True))


def _average(rows: Records, key: str) -> float | None:
    """The mean of the values; None if any of them is None."""
    values = [row[key] for row in rows]
    return None if None in values else sum(values) / len(values)


def groups_of(items: Records) -> list[Any] | None:
    """The groups of items that belong together; None if none do."""
    return [item["group"] for item in items] if "group" in items[0] else None
