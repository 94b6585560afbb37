"""The section on the learning rate of each model, where the recipe searches for it."""

from typing import Any

from limelm.records import Record, Records
from limelm.report.captions import Words
from limelm.report.columns import thousandths
from limelm.report.figures.search import loss_by_learning_rate
from limelm.report.writer import Section

SEPARATOR = "   "  # of the losses of one model


def _by_model(rows: Records) -> Records:
    """A row for each model: its best rate, and the first seed's losses at all rates in their order."""
    first = [row for row in rows if row["seed"] == rows[0]["seed"]]
    rates = sorted({row["learning_rate"] for row in first})
    models: dict[str, dict[float, Record]] = {}
    for row in first:
        models.setdefault(row["model"], {})[row["learning_rate"]] = row
    return [
        {
            "model": model,
            "learning_rate": next((rate for rate, row in own.items() if row["is_best"]), None),
            "eval_losses": SEPARATOR.join(_outcome(own.get(rate)) for rate in rates),
        }
        for model, own in models.items()
    ]


def _outcome(row: Record | None) -> str:
    """The loss of a training, or what became of it, in a word."""
    if row is None:
        return "–"
    return "diverged" if row["eval_loss"] is None else thousandths(row["eval_loss"])


SEARCH = Section("search", loss_by_learning_rate, rows=_by_model)


def search_records(summary: dict[str, Any]) -> Records:
    """The held-out loss of each model at each learning rate; none where the recipe does not search.

    Args:
        summary: of the run, from `limelm.training.read_summary`.
    """
    keys = ("learning_rate", "seed", "eval_loss", "diverged_at", "is_best")
    return [{"model": row["label"], **{key: row[key] for key in keys}} for row in summary.get("search", ())]


def search_words(summary: dict[str, Any]) -> Words:
    """Facts for the section's text: which models are best at an end of the grid, and what diverged where."""
    if "search" not in summary:
        return {}
    rows, recipe = search_records(summary), summary["recipe"]
    ends = {recipe["learning_rates"][0]: "lowest", recipe["learning_rates"][-1]: "highest"}
    best = {row["model"]: row["learning_rate"] for row in rows if row["is_best"]}
    at_edge = [f"{model} ({rate:g}, the {ends[rate]})" for model, rate in best.items() if rate in ends]
    diverged = [
        f"{row['model']} at {row['learning_rate']:g} (seed {row['seed']}, step {row['diverged_at']})"
        for row in rows
        if row["diverged_at"] is not None
    ]
    training = recipe["training"]
    return {
        "searched_seed": training["seed"],
        "router_ratio": training["router_learning_rate"] / training["learning_rate"],
        "rates": ", ".join(f"{rate:g}" for rate in sorted({row["learning_rate"] for row in rows})),
        "at_edge": ", ".join(at_edge),
        "diverged": ", ".join(diverged),
    }
