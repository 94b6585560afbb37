"""The report of `limelm eval`: scores with their errors, beside chance, constant answers, the paper and each other."""

from pathlib import Path
from typing import Any

from limelm.evaluation.scores import headline
from limelm.files import write_text
from limelm.records import Records
from limelm.report.captions import columns, paragraphs
from limelm.report.columns import aligned, markdown, percent, share, short_name, thousandths
from limelm.report.figures.palette import palette_of
from limelm.report.figures.style import by_model
from limelm.report.made import made_now
from limelm.report.sections.scores import SECTIONS
from limelm.report.writer import write_json, write_page

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
    write_json(out / EVALUATION, evaluation)
    write_text(out / "table.md", markdown_tables(scores, averages, perplexity))
    kinds = ["benchmarks"] * bool(scores) + ["perplexity"] * bool(perplexity)
    samples = ["items"] * bool(scores) + ["documents"] * bool(perplexity)
    words = {"scores": scores, "perplexity": perplexity, "samples": " and ".join(samples)}
    return write_page(
        out,
        SECTIONS,
        {
            "accuracy": headline(scores),
            "scores": scores,
            "average": averages,
            "answer_loss": evaluation["answers"],
            "perplexity": perplexity,
            "loss_by_context": evaluation["by_context"],
            "loss_by_share": evaluation["by_share"],
        },
        palette_of(models),
        words,
        title=f"{' and '.join(kinds).capitalize()}: {', '.join(model['label'] for model in models)}",
        lead=" ".join(paragraphs("evaluation", "lead", words)),
        tiles={model["label"]: _tile(model["label"], scores, averages, perplexity) for model in models},
        cautions=evaluation["cautions"],
        missing=[f"{note['task']}: {note['model']}: {note['reason']}" for note in evaluation["notes"]],
        facts={
            "Command": made_now(),
            "Checkpoints": [(model["label"], model["checkpoint"]) for model in models],
            "Settings and environment": list(evaluation["facts"].items()),
        },
    )


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


def perplexities_as_text(rows: Records) -> str:
    """Bits per byte as lines of text, models by domains; every model has all of them."""
    head = ["bits per byte", *dict.fromkeys(row["domain"] for row in rows)]
    body = [[short_name(model), *(thousandths(row["bits_per_byte"]) for row in own)] for model, own in by_model(rows)]
    return aligned(head, body)


def markdown_tables(scores: Records, averages: Records, perplexity: Records) -> str:
    """Markdown tables of all scores with their averages, and of all perplexities."""
    rows = [*scores, *(row | {"task": "average", "accuracy": row["average"]} for row in averages)]
    tables = [("scores", rows), ("perplexity", perplexity)]
    return "\n".join(markdown(columns(name), rows) for name, rows in tables if rows)


def _tile(label: str, scores: Records, averages: Records, perplexity: Records) -> tuple[str, str]:
    """The tile of a model: its average score, or its bits per byte if there are no scores."""
    parts = []
    if scores:
        own = [row for row in headline(scores) if row["model"] == label]
        known = [row["above_trivial"] == "yes" for row in own if row["above_trivial"] is not None]
        average = next((row["average"] for row in averages if row["model"] == label), None)
        if average is None and own:
            average = sum(row["accuracy"] for row in own) / len(own)
        tasks = averages[0]["tasks"] if averages else len(own)
        parts.append(("–" if average is None else share(average), f"mean of {tasks} tasks"))
        parts.append((f"on {sum(known)} of {len(known)}", "above trivial answers"))
    text = [row["bits_per_byte"] for row in perplexity if row["model"] == label]
    if text:
        of = f" on {perplexity[0]['domain']}" if len(text) == 1 else f", mean of {len(text)} domains"
        parts.append((thousandths(sum(text) / len(text)), f"bits per byte{of}"))
    (value, what), *more = parts
    return value, " · ".join([what, *(" ".join(part) for part in more)])
