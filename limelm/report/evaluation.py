"""The report of `limelm eval`: scores with their errors, beside chance, constant answers, the paper and each other."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from limelm.evaluation.scores import PREFERRED
from limelm.files import write_text
from limelm.report.figures.style import REFERENCE, Palette, by_model, legend_beside, new_figure, numbers, shown
from limelm.report.html import Column, Records, Section, share, unbroken, write_page

EVALUATION = "evaluation.json"
CONFIDENCE_Z = 1.96


def write_evaluation(out: Path, evaluation: dict[str, Any]) -> Path:
    """Write `out/report.html`, `out/figures/*`, `out/evaluation.json`, `out/table.md` and `out/table.tex`.

    Args:
        evaluation: `models`, `facts`, `notes`, `cautions` and `scores`, as `limelm.evaluation.run.evaluate` gives them;
            at least one score.

    Returns:
        The page's path.
    """
    models, scores = evaluation["models"], evaluation["scores"]
    palette = Palette([model["label"] for model in models])
    write_text(out / EVALUATION, json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "table.md", markdown_table(scores))
    write_text(out / "table.tex", latex_table(scores))
    return write_page(
        out,
        evaluation_sections(scores, palette),
        title="Benchmarks: " + ", ".join(model["label"] for model in models),
        lead=(
            "Scores of the lm-evaluation-harness, with standard errors, beside what guessing and always giving the "
            "same answer score. Differences are between models on the same items."
        ),
        tiles=[_tile(model, scores, palette) for model in models],
        cautions=evaluation["cautions"],
        missing=[f"{note['task']}: {note['model']}: {note['reason']}" for note in evaluation["notes"]],
        facts=[
            *((f"checkpoint: {model['label']}", model["checkpoint"]) for model in models),
            *evaluation["facts"].items(),
        ],
    )


def evaluation_sections(scores: Records, palette: Palette) -> list[Section]:
    """The figure, and the table of all scores."""
    first = scores[0]["model"]
    return [
        Section(
            "accuracy",
            "Accuracy by task",
            [
                "Points are accuracies with 95 % intervals. A grey line is what guessing scores, a dotted one what "
                "always giving the most frequent answer scores; a model at or below either has shown nothing.",
                "acc_norm (log-likelihood per character) where the harness gives one, acc elsewhere.",
            ],
            headline(scores),
            figure=accuracies_by_task(headline(scores), palette),
        ),
        Section(
            "scores",
            "All scores",
            [
                f"± is one standard error over items. The difference is to {first} (or the first model that ran the "
                "task) on the same items, in points, with the 95 % interval of a paired bootstrap; “not "
                "distinguishable” means that zero is inside it or the normal interval. The paper's value is that of "
                "its 1.2 B model of this kind, for orientation.",
            ],
            scores,
            columns=COLUMNS,
        ),
    ]


def headline(scores: Records) -> Records:
    """One metric per task: `acc_norm` where there is one, else the first."""
    chosen: dict[tuple[str, int], str] = {}
    for row in scores:
        key = row["task"], row["shots"]
        if key not in chosen or row["metric"] == PREFERRED:
            chosen[key] = row["metric"]
    return [row for row in scores if row["metric"] == chosen[row["task"], row["shots"]]]


def accuracies_by_task(rows: Records, palette: Palette) -> Figure:
    """The models beside each other for each task, with intervals and marks for trivial answers."""
    tasks = list(dict.fromkeys((row["task"], row["shots"]) for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    step = 0.7 / len(models)
    with new_figure(figsize=(9, 1 + len(tasks) * (0.3 + 0.16 * len(models)))) as (figure, axes):
        guessing = constant = None
        for place, task in enumerate(tasks):
            one = next(row for row in rows if (row["task"], row["shots"]) == task)
            if one["chance"] is not None:
                span = {"ymin": place - 0.4, "ymax": place + 0.4, "color": REFERENCE, "linewidth": 2, "zorder": 1}
                guessing = axes.vlines(100 * one["chance"], **span)
                constant = axes.vlines(100 * one["constant_rate"], linestyle=":", **span)
        for number, (model, own) in enumerate(by_model(rows)):
            shift = (number - (len(models) - 1) / 2) * step
            axes.errorbar(
                100 * numbers(own, "accuracy"),
                [tasks.index((row["task"], row["shots"])) + shift for row in own],
                xerr=100 * CONFIDENCE_Z * numbers(own, "standard_error"),
                fmt=palette.marker(model),
                color=palette[model],
                capsize=2,
                label=shown(model),
            )
        if guessing is not None and constant is not None:
            guessing.set_label("guessing")
            constant.set_label("constant answer")
        axes.set_yticks(range(len(tasks)), [f"{task}, {shots}-shot" for task, shots in tasks])
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.set_xlabel("accuracy, %")
        legend_beside(axes)
    return figure


def markdown_table(scores: Records) -> str:
    """All scores as a table in Markdown."""
    lines = [[column.header for column in COLUMNS], ["---"] * len(COLUMNS)]
    lines += [[_markdown(column.show(row[column.key])) for column in COLUMNS] for row in scores]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def latex_table(scores: Records) -> str:
    """Models by tasks, in the manner of the paper's Table 1, for the package booktabs."""
    rows = headline(scores)
    tasks = list(dict.fromkeys((row["task"], row["shots"]) for row in rows))
    lines = [["Model", *(f"{_latex(task)} ({shots})" for task, shots in tasks)]]
    for model, own in by_model(rows):
        cells = {(row["task"], row["shots"]): _latex_score(row) for row in own}
        lines.append([_latex(model), *(cells.get(task, "--") for task in tasks)])
    for title, key in (("chance", "chance"), ("constant answer", "constant_rate")):
        values = {(row["task"], row["shots"]): _number(row[key]) for row in rows}
        lines.append([title, *(values[task] or "--" for task in tasks)])
    head, *body = [" & ".join(cells) + r" \\" for cells in lines]
    body.insert(len(body) - 2, r"\midrule")
    columns = "l" + "r" * len(tasks)
    parts = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(parts) + "\n"


def _tile(model: dict[str, Any], scores: Records, palette: Palette) -> dict[str, str]:
    own = [row for row in headline(scores) if row["model"] == model["label"]]
    known = [row for row in own if row["above_trivial"] is not None]
    above = sum(row["above_trivial"] == "yes" for row in known)
    return {
        "label": model["label"],
        "color": palette[model["label"]],
        "value": share(sum(row["accuracy"] for row in own) / len(own)) if own else "–",
        "note": f"mean of {len(own)} tasks · on {above} of {len(known)} above trivial answers",
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("\u00a0", " ")


def _latex_score(row: dict[str, Any]) -> str:
    error = "" if row["standard_error"] is None else rf" \pm {_number(row['standard_error'])}"
    return f"${_number(row['accuracy'])}{error}$"


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "_%&#${}" else letter) for letter in text)


def _optional(value: Any) -> str:
    return "" if value is None else str(value)


COLUMNS = [
    Column("task", "task"),
    Column("shots", "shots"),
    Column("metric", "metric"),
    Column("model", "model", unbroken),
    Column("accuracy", "accuracy, %", _number),
    Column("standard_error", "±", _number),
    Column("chance", "chance", _number),
    Column("constant_rate", "constant answer", _number),
    Column("above_trivial", "above both", _optional),
    Column("paper", "paper, 1.2 B", _number),
    Column("difference", "difference", _points),
    Column("difference_low", "from", _points),
    Column("difference_high", "to", _points),
    Column("verdict", "verdict", lambda text: unbroken(_optional(text))),
    Column("items", "items", lambda n: f"{n:,}"),
    Column("items_cut", "cut prompts", lambda n: f"{n:,}"),
]
