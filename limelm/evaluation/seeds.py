"""Compare the trainings of one or more seeds: which models differ, at equal tokens and at equal FLOPs?

Within a seed all models see the same data in the same order and share initial values, so differences are taken seed by
seed (paired) before they are averaged.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from limelm.evaluation.statistics import (
    NOT_DISTINGUISHABLE,
    Interval,
    loss_verdict,
    paired_bootstrap,
    standard_deviation,
    t_interval,
)
from limelm.records import Record, Records

NOT_IN_ALL = "not reached in every seed"
AXES = ("tokens", "flops")
COMPARISON = ("difference", "t_low", "t_high", "bootstrap_low", "bootstrap_high", "lower_in", "verdict")


def in_all_seeds(summary: Mapping[str, Any]) -> list[str]:
    """The labels of the models that a run has trained with all of its seeds, which alone are compared.

    Args:
        summary: of the run: `seeds`, and `trainings` with `seed` and `label`.
    """
    trained = Counter(training["label"] for training in summary["trainings"])
    return [label for label, seeds in trained.items() if seeds == len(summary["seeds"])]


def baseline_of(summary: Mapping[str, Any]) -> str:
    """The label of the model that others are compared with: LLaMA's; in a pretrained model or without it the first.

    Args:
        summary: as of `in_all_seeds`, with each training's `model_type`; "" where no model has all seeds.
    """
    labels, kinds = in_all_seeds(summary), {entry["label"]: entry["model_type"] for entry in summary["trainings"]}
    plain = [label for label in labels if kinds[label] == "llama" and "base" not in summary]
    return next(iter([*plain, *labels]), "")


@dataclass(frozen=True)
class Curve:
    """One training's held-out losses, in nats per token, and the budget spent at each: all `[points]`, in order."""

    tokens: np.ndarray
    flops: np.ndarray
    loss: np.ndarray


def loss_at(curve: Curve, axis: str, budget: float) -> float:
    """The held-out loss at a budget, interpolated linearly between measurements; NaN outside of them."""
    spent = getattr(curve, axis)
    return float(np.interp(budget, spent, curve.loss, left=np.nan, right=np.nan))


def first_reached(curve: Curve, axis: str, loss: float) -> float:
    """The tokens or FLOPs after which the held-out loss was first as low as `loss`; NaN if never.

    It is linear between measurements; a curve that begins below has reached it at its first measurement, or earlier.
    """
    spent = getattr(curve, axis)
    below = np.flatnonzero(curve.loss <= loss)
    if not len(below):
        return float("nan")
    place = int(below[0])
    if place == 0:
        return float(spent[0])
    higher, lower = curve.loss[place - 1], curve.loss[place]
    return float(spent[place - 1] + (higher - loss) / (higher - lower) * (spent[place] - spent[place - 1]))


def losses_at_equal_budgets(curves: Mapping[str, Mapping[int, Curve]], baseline: str) -> Records:
    """Every model's held-out loss, per seed, at the largest budget that all models of the seed have spent.

    Args:
        curves: by model and seed; every model has the same seeds.
        baseline: the model that the others are compared with.

    Returns:
        Records of `model`, `axis`, `seed`, `budget`, `loss`, and its `difference` from the baseline's.
    """
    records: Records = []
    for axis in AXES:
        for seed in curves[baseline]:
            budget = min(float(getattr(by_seed[seed], axis)[-1]) for by_seed in curves.values())
            reference = loss_at(curves[baseline][seed], axis, budget)
            for model, by_seed in curves.items():
                loss = loss_at(by_seed[seed], axis, budget)
                row = {"model": model, "axis": axis, "seed": seed, "budget": budget, "loss": loss}
                records.append({**row, "difference": loss - reference})
    return records


def final_losses(losses: Mapping[str, Mapping[int, float]], baseline: str) -> Records:
    """Every model's last held-out loss, by model and seed, as records of `losses_at_equal_budgets` at equal tokens."""
    return [
        {"model": model, "axis": "tokens", "seed": seed, "loss": loss, "difference": loss - losses[baseline][seed]}
        for model, by_seed in losses.items()
        for seed, loss in by_seed.items()
    ]


def compare_losses(losses: Records, baseline: str) -> Records:
    """Mean, scatter and paired difference of each model on each axis.

    Args:
        losses: from `losses_at_equal_budgets` or `final_losses`, of one seed or more.

    Returns:
        Records of `model`, `axis`, `seeds`, `mean` and `standard_deviation` of the loss; `difference` from the baseline
        with Student's interval (`t_low`, `t_high`) and the bootstrap's (`bootstrap_low`, `bootstrap_high`); `lower_in`,
        the number of seeds in which the loss was lower; and a `verdict`. The comparison is None for the baseline
        itself, all numbers are where a model was not measured so early, and with a single seed all that says how much
        it varies, and the verdict.
    """
    records: Records = []
    for axis, model in dict.fromkeys((row["axis"], row["model"]) for row in losses):
        rows = [row for row in losses if (row["model"], row["axis"]) == (model, axis)]
        values, differences = (np.array([row[key] for row in rows]) for key in ("loss", "difference"))
        record = {"model": model, "axis": axis, "seeds": len(rows), **_scatter(values), **dict.fromkeys(COMPARISON)}
        if np.isnan(differences).any():
            record["verdict"] = "not measured so early"
        elif model != baseline:
            record |= _comparison(differences)
        records.append(record)
    return records


def how_much_sooner(curves: Mapping[str, Mapping[int, Curve]], baseline: str) -> Records:
    """The share of the baseline's FLOPs after which each model has reached the baseline's final held-out loss.

    Returns:
        Records of `model`, `seeds`, `reached` (in how many), and over those the `share` (mean), with `t_low`, `t_high`
        and a `verdict` ("sooner", "later") where there are two or more; none where a run was measured once only.
    """
    records: Records = []
    if any(len(curve.loss) < 2 for by_seed in curves.values() for curve in by_seed.values()):
        return records
    for model, by_seed in curves.items():
        if model == baseline:
            continue
        shares = np.array(
            [
                first_reached(curve, "flops", curves[baseline][seed].loss[-1]) / curves[baseline][seed].flops[-1]
                for seed, curve in by_seed.items()
            ]
        )
        reached = shares[~np.isnan(shares)]
        share = t_interval(reached) if len(reached) else None
        records.append(
            {
                "model": model,
                "seeds": len(shares),
                "reached": len(reached),
                "share": share and share.mean,
                "t_low": share and share.low,
                "t_high": share and share.high,
                "verdict": _sooner(share, len(reached) == len(shares)) if share and share.bounds else None,
            }
        )
    return records


def _sooner(interval: Interval, in_all_seeds: bool) -> str:
    if not in_all_seeds:  # those in which it is reached are the better ones
        return NOT_IN_ALL
    if not interval.excludes(1):
        return NOT_DISTINGUISHABLE
    return "sooner" if interval.mean < 1 else "later"


def _scatter(values: np.ndarray) -> dict[str, float | None]:
    if np.isnan(values).any():
        return {"mean": None, "standard_deviation": None}
    return {"mean": float(values.mean()), "standard_deviation": standard_deviation(values)}


def _comparison(differences: np.ndarray) -> Record:
    student, bootstrap = t_interval(differences), paired_bootstrap(differences)
    return {
        "difference": student.mean,
        "t_low": student.low,
        "t_high": student.high,
        "bootstrap_low": bootstrap.low,
        "bootstrap_high": bootstrap.high,
        "lower_in": int((differences < 0).sum()),
        "verdict": student.bounds and loss_verdict(student, "nats", sample=None),
    }
