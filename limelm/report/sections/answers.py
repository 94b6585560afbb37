"""The sections on reasoning problems: which models write the right answers, and whether that is more than guessing."""

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

from limelm.evaluation.exact_match import summarize_accuracies
from limelm.records import Record, Records
from limelm.report.columns import share
from limelm.report.figures.points import right_answers
from limelm.report.writer import Section
from limelm.text import counted

ANSWERS = (Section("exact_match", right_answers), Section("exact_match_summary"))


def answer_records(tasks: Sequence[Record]) -> dict[str, Records]:
    """The records of `ANSWERS`, by name; `tasks` are from `limelm.evaluation.exact_match.score_run`."""
    return {
        "exact_match": [row | {"chance": task["chance"]} for task in tasks for row in task["scores"]],
        "exact_match_summary": [
            {**row, "chance": task["chance"], "constant_rate": task["constant_rate"]}
            for task in tasks
            for row in summarize_accuracies(task["scores"], task["baseline"])
        ],
    }


def answer_words(tasks: Sequence[Record], summary: Records) -> dict[str, Any]:
    """Facts for the cautions; all are false without tasks. `summary` is "exact_match_summary" of `answer_records`."""
    seeds = sorted({len({row["seed"] for row in task["scores"]}) for task in tasks})
    # Of a single seed there is no interval, and the mean has to do.
    above = {
        row["task"]
        for row in summary
        if (row["mean"] if row["low"] is None else row["low"]) > max(row["chance"], row["constant_rate"])
    }
    return {
        "has_answers": bool(tasks),
        "answer_seeds": " to ".join(map(str, dict.fromkeys([*seeds[:1], *seeds[-1:]]))),
        "comparisons": counted(sum(len({row["model"] for row in task["scores"]}) - 1 for task in tasks), "comparison"),
        "guessed": ", ".join(task["task"] for task in tasks if task["task"] not in above),
        "has_worked_steps": any(task["worked_steps"] for task in tasks),
    }


def answer_tiles(summary: Records) -> dict[str, tuple[str, str]]:
    """The tile of each model: its mean over the tasks that all models were asked, or else over its own tasks."""
    models, tasks = (Counter(row[key] for row in summary) for key in ("model", "task"))
    tiles = {}
    for model in models:
        own = [row for row in summary if row["model"] == model]
        of = [row for row in own if tasks[row["task"]] == len(models)] or own
        named = of[0]["task"] if len(of) == 1 else f"mean of {len(of)} tasks"
        tiles[model] = (share(mean(row["mean"] for row in of)), f"right answers: {named}")
    return tiles


def answer_facts(tasks: Sequence[Record]) -> list[tuple[str, str]]:
    """How many problems of each task were learned and asked, for the end of a page."""
    text = "{train_problems:,} problems to learn from, {problems:,} asked ({tested_on})"
    return [(task["task"], text.format_map(task)) for task in tasks]
