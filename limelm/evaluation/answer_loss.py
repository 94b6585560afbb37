"""The loss of a task's right answers: it tells models apart that do not choose right yet."""

from typing import Any

import numpy as np

from limelm.evaluation.scores import by_task, groups_of
from limelm.evaluation.statistics import loss_verdict, sample_size, t_interval
from limelm.records import Record, Records


def answer_rows(models: Records, records: dict[str, Records]) -> Records:
    """One row for each task and model: the mean negative log-likelihood of the right answers, in nats per answer.

    Args:
        models, records: as in `limelm.evaluation.scores.score_rows`.

    Returns:
        Rows of `task`, `shots`, `model`, `items` and `answer_loss`, with Student's 95 % interval over items (`low`,
        `high`); the `difference` to the first model that ran the task, item by item, with its interval (`t_low`,
        `t_high`) and `verdict`, None for that model itself. Tasks are left out of which an item's right answer has no
        log-likelihood of its own.
    """
    rows = []
    for (task, shots), ran in by_task(models, records).items():
        kept = [_losses(record["items"]) for _, record in ran]
        losses = [own for own in kept if own is not None]
        if len(losses) < len(ran):
            continue
        groups = groups_of(ran[0][1]["items"])
        for (model, _), own in zip(ran, losses, strict=True):
            row = {"task": task, "shots": shots, "model": model["label"], "items": len(own)}
            interval = t_interval(own, groups)
            row |= {"answer_loss": float(own.mean()), "low": interval.low, "high": interval.high}
            rows.append(row | _comparison(own, losses[0], groups))
    return rows


def _losses(items: Records) -> np.ndarray | None:
    """The loss of each item's right answer, `[items]`; None where one has none."""
    likelihoods = [_of_right_answer(item) for item in items]
    return None if None in likelihoods else -np.array(likelihoods, dtype=float)


def _of_right_answer(item: Record) -> float | None:
    """The log-likelihood of an item's only answer, or of the right one among its choices."""
    gold, likelihoods = item.get("gold"), item.get("log_likelihoods", ())
    if gold is not None and 0 <= gold < len(likelihoods):  # the harness knows labels that no choice has
        return float(likelihoods[gold])
    return item.get("answer_log_likelihood")


def _comparison(own: np.ndarray, first: np.ndarray, groups: list[Any] | None) -> Record:
    """The fields that compare a model with the first one."""
    if own is first:
        return dict.fromkeys(("difference", "t_low", "t_high", "verdict"))
    differences = own - first
    interval, sample = t_interval(differences, groups), sample_size(differences, groups)
    return {
        "difference": float(differences.mean()),
        "t_low": interval.low,
        "t_high": interval.high,
        "verdict": loss_verdict(interval, "nats", sample=sample) if sample > 1 else None,
    }
