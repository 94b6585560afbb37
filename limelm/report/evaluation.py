"""The report of `limelm eval`: scores with their errors, beside chance, constant answers, the paper and each other."""

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from limelm.evaluation.scores import headline
from limelm.evaluation.statistics import FEWEST_FOR_VERDICT
from limelm.files import write_text
from limelm.records import Records
from limelm.report.columns import Column, aligned, count, markdown, percent, points, share, short_name, unbroken
from limelm.report.figures.palette import Palette, palette_of
from limelm.report.figures.points import grouped_points
from limelm.report.figures.style import REFERENCE
from limelm.report.html import Section, write_page
from limelm.report.made import made_now
from limelm.report.output import write_json
from limelm.report.perplexity import COLUMNS as PERPLEXITY_COLUMNS
from limelm.report.perplexity import perplexity_section

EVALUATION = "evaluation.json"


def write_evaluation(out: Path, evaluation: dict[str, Any]) -> Path:
    """Write `out/report.html`, `out/figures/*`, `out/evaluation.json` and `out/table.md`.

    Args:
        evaluation: the fields of `limelm.evaluation.run.Evaluation`; at least one of scores and perplexities.

    Returns:
        The page's path.
    """
    models = evaluation["models"]
    scores, averages, perplexity = (evaluation[key] for key in ("scores", "averages", "perplexity"))
    palette = palette_of(models)
    write_json(out / EVALUATION, evaluation)
    write_text(out / "table.md", markdown_tables(scores, averages, perplexity))
    kinds = ["benchmarks"] * bool(scores) + ["perplexity"] * bool(perplexity)
    return write_page(
        out,
        [
            *(score_sections(scores, averages, palette) if scores else []),
            *([perplexity_section(perplexity, palette)] if perplexity else []),
        ],
        title=f"{' and '.join(kinds).capitalize()}: {', '.join(model['label'] for model in models)}",
        lead=_lead(scores, perplexity),
        palette=palette,
        tiles={model["label"]: _tile(model["label"], scores, averages, perplexity) for model in models},
        cautions=evaluation["cautions"],
        missing=[f"{note['task']}: {note['model']}: {note['reason']}" for note in evaluation["notes"]],
        facts={
            "Command": made_now(),
            "Checkpoints": [(model["label"], model["checkpoint"]) for model in models],
            "Settings and environment": list(evaluation["facts"].items()),
        },
    )


def score_sections(scores: Records, averages: Records, palette: Palette) -> list[Section]:
    """Make the sections with the figure, the table of all scores, and their averages."""
    first = scores[0]["model"]
    sections = [
        Section(
            "accuracy",
            "Accuracy by task",
            [
                "Points are accuracies with Student's 95 % intervals. A gray line is what guessing scores, a dotted "
                "one what always giving the most frequent answer scores; a model at or below either has shown nothing.",
                "acc_norm (log-likelihood per character) where the harness gives one, acc elsewhere.",
            ],
            headline(scores),
            figure=accuracies_by_task(headline(scores), palette),
        ),
        Section(
            "scores",
            "All scores",
            f"± is one standard error over items. The difference is to {first} (or the first model that ran the "
            "task) on the same items, in points, with the 95 % interval of a paired bootstrap; “not "
            "distinguishable” means that zero is inside it or inside Student's interval. With fewer than "
            f"{FEWEST_FOR_VERDICT} items (or passages, where items belong together) no verdict is given: a single "
            "one decides. The paper's value is that of its 1.2 B model of this kind, for orientation.",
            scores,
            columns=COLUMNS,
        ),
    ]
    if averages:
        sections.append(
            Section(
                "average",
                f"Average over {averages[0]['tasks']} tasks",
                "The mean over the tasks that all models ran, each weighing the same, of the metric that the "
                "figure shows. ± is its standard error, tasks taken as independent; the difference is to "
                f"{averages[0]['model']}, in points, with the 95 % interval of a bootstrap of the items within "
                "each task. Other tasks would give another average: that is in no interval. The paper's value is "
                "the mean over the same tasks.",
                averages,
                columns=AVERAGE_COLUMNS,
            )
        )
    return sections


def accuracies_by_task(rows: Records, palette: Palette) -> Figure:
    """Draw the models' accuracies for each task, with intervals and marks for trivial answers."""
    points = []
    for row in rows:
        low, high = (math.nan if row[key] is None else 100 * row[key] for key in ("low", "high"))
        group = f"{row['task']}, {row['shots']}-shot"
        points.append({**row, "group": group, "value": 100 * row["accuracy"], "low": low, "high": high})
    one_each = {point["group"]: point for point in points}
    with grouped_points(points, palette, "accuracy, %") as (figure, axes):
        guessing = constant = None
        for place, point in enumerate(one_each.values()):
            if point["chance"] is not None:
                span = {"ymin": place - 0.4, "ymax": place + 0.4, "color": REFERENCE, "linewidth": 2, "zorder": 1}
                guessing = axes.vlines(100 * point["chance"], **span)
                constant = axes.vlines(100 * point["constant_rate"], linestyle=":", **span)
        if guessing is not None and constant is not None:
            guessing.set_label("guessing")
            constant.set_label("constant answer")
    return figure


def scores_as_text(scores: Records, averages: Records) -> str:
    """Accuracies as lines of text, at most 80 columns: task, model, accuracy ± error, trivial answers."""
    rows = [
        *(row | {"task": f"{row['task']}, {row['shots']}-shot"} for row in headline(scores)),
        *(row | {"task": f"average of {row['tasks']} tasks", "accuracy": row["average"]} for row in averages),
    ]
    body, last = [], None
    for row in rows:
        shown = (percent(row[key]) or "-" for key in ("accuracy", "standard_error", "chance", "constant_rate"))
        body.append(["" if row["task"] == last else short_name(row["task"]), short_name(row["model"]), *shown])
        last = row["task"]
    return aligned(["task", "model", "acc., %", "±", "chance", "constant"], body, texts=(0, 1))


def markdown_tables(scores: Records, averages: Records, perplexity: Records) -> str:
    """Markdown tables of all scores with their averages, and of all perplexities."""
    tables = []
    if scores:
        as_scores = [
            dict.fromkeys(column.key for column in COLUMNS) | row | {"task": "average", "accuracy": row["average"]}
            for row in averages
        ]
        tables.append(markdown(COLUMNS, scores + as_scores))
    if perplexity:
        tables.append(markdown(PERPLEXITY_COLUMNS, perplexity))
    return "\n".join(tables)


def _lead(scores: Records, perplexity: Records) -> str:
    sentences, samples = [], []
    if scores:
        sentences.append(
            "Scores of the lm-evaluation-harness, with standard errors, beside what guessing and always giving the "
            "same answer score."
        )
        samples.append("items")
    if perplexity:
        sentences.append("Bits per byte and perplexity on text, with intervals over documents.")
        samples.append("documents")
    return " ".join([*sentences, f"Differences are between models on the same {' and '.join(samples)}."])


def _tile(label: str, scores: Records, averages: Records, perplexity: Records) -> tuple[str, str]:
    """The tile of a model: its average score, or its bits per byte if there are no scores."""
    parts = []
    if scores:
        own = [row for row in headline(scores) if row["model"] == label]
        known = [row for row in own if row["above_trivial"] is not None]
        above = sum(row["above_trivial"] == "yes" for row in known)
        average = next((row["average"] for row in averages if row["model"] == label), None)
        tasks = averages[0]["tasks"] if averages else len(own)
        if average is None and own:
            average = sum(row["accuracy"] for row in own) / len(own)
        parts.append(("–" if average is None else share(average), f"mean of {tasks} tasks"))
        parts.append((f"on {above} of {len(known)}", "above trivial answers"))
    text = [row["bits_per_byte"] for row in perplexity if row["model"] == label]
    if text:
        of = f" on {perplexity[0]['domain']}" if len(text) == 1 else f", mean of {len(text)} domains"
        parts.append((f"{sum(text) / len(text):.3f}", f"bits per byte{of}"))
    (value, what), *more = parts
    return value, " · ".join([what, *(" ".join(part) for part in more)])


COLUMNS = [
    Column("task", "task"),
    Column("shots", "shots"),
    Column("metric", "metric"),
    Column("model", "model", unbroken),
    Column("accuracy", "accuracy, %", percent),
    Column("standard_error", "±", percent),
    Column("chance", "chance", percent),
    Column("constant_rate", "constant answer", percent),
    Column("above_trivial", "above both"),
    Column("paper", "paper, 1.2 B", percent),
    Column("difference", "difference", points),
    Column("difference_low", "from", points),
    Column("difference_high", "to", points),
    Column("verdict", "verdict", unbroken),
    Column("items", "items", count),
    Column("items_cut", "cut prompts", count),
]
_ONE_TASK = ("task", "shots", "metric", "model", "accuracy", "above_trivial", "items", "items_cut")
AVERAGE_COLUMNS = [
    Column("model", "model", unbroken),
    Column("average", "average, %", percent),
    *(column for column in COLUMNS if column.key not in _ONE_TASK),
]
