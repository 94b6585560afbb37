"""The report of `limelm analyze`: every figure and table that was measured, on one page."""

from pathlib import Path
from typing import Any

from limelm.report.figures.palette import palette_of
from limelm.report.made import made_now
from limelm.report.sections.circuits import CIRCUITS
from limelm.report.sections.effects import EFFECTS
from limelm.report.sections.routing import routing_sections, routing_words, with_weight_sets
from limelm.report.sections.states import STATES
from limelm.report.writer import write_json, write_page
from limelm.text import counted

ANALYSIS = "analysis.json"


def write_analysis(out: Path, analysis: dict[str, Any]) -> Path:
    """Write `out/report.html`, `out/figures/*.png, *.svg, *.csv`, and `out/analysis.json`: what was analyzed.

    Args:
        analysis: `models`, `facts`, `notes`, `cautions` and `records`, as `limelm.analysis.analyze` yields them.

    Returns:
        The page's path.
    """
    models, facts, records = analysis["models"], analysis["facts"], analysis["records"]
    palette = with_weight_sets(palette_of(models), records)
    told = {key: analysis[key] for key in ("models", "facts", "notes", "cautions")}
    write_json(out / ANALYSIS, told)
    return write_page(
        out,
        [*routing_sections(records), *EFFECTS, CIRCUITS, *STATES],
        records,
        palette,
        {"has_routers": any(entry["has_routers"] for entry in models), **routing_words(records)},
        title="Inside the models: routing and representations by depth",
        lead=f"{_measured_on(facts)} Layers count from zero; representation 0 is the token embedding, m the output of "
        "layer m - 1.",
        tiles={entry["label"]: _tile(entry) for entry in models},
        cautions=analysis["cautions"],
        missing=_missing(analysis["notes"]),
        facts={
            "Command": made_now(),
            "Checkpoints": [(entry["label"], entry["checkpoint"]) for entry in models],
            "Data and environment": list(facts.items()),
        },
    )


def _measured_on(facts: dict[str, Any]) -> str:
    if not facts["tokens"]:
        return "Read from the models' weights alone: what was asked for needs no text."
    return (
        f"Measured on {facts['tokens']:,} tokens of text ({facts['data']}), in sequences of "
        f"{facts['sequence_length']:,}."
    )


def _tile(entry: dict[str, Any]) -> tuple[str, str]:
    kind = entry["model_type"] if entry["routing"] is None else f"{entry['model_type']}, {entry['routing']}"
    layers = counted(entry["num_layers"], "layer")
    return _count(entry["parameters"]), f"parameters · {kind} · {layers} of {entry['hidden_size']:,}"


def _count(number: int) -> str:
    """A number of parameters to three digits."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _missing(notes: list[dict[str, str]]) -> list[str]:
    """Say what is missing, one line for each reason."""
    models: dict[tuple[str, str], list[str]] = {}
    for note in notes:
        models.setdefault((note["analysis"], note["reason"]), []).append(note["model"])
    return [f"{analysis} ({', '.join(labels)}): {reason}" for (analysis, reason), labels in models.items()]
