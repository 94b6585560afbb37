"""The report of `limelm analyze`: every figure and table that was measured, on one page."""

from pathlib import Path
from typing import Any

from limelm.report.circuits import circuit_sections
from limelm.report.figures.palette import palette_of
from limelm.report.html import write_page
from limelm.report.made import made_now
from limelm.report.output import write_json
from limelm.report.representations import representation_sections
from limelm.report.routing import routing_sections

ANALYSIS = "analysis.json"


def write_analysis(out: Path, analysis: dict[str, Any]) -> Path:
    """Write `out/report.html`, `out/figures/*.png, *.svg, *.csv`, and `out/analysis.json`: what was analyzed.

    Args:
        analysis: `models`, `facts`, `notes`, `cautions` and `records`, as `limelm.analysis.analyze` yields them.

    Returns:
        The page's path.
    """
    models, facts, records = analysis["models"], analysis["facts"], analysis["records"]
    palette = palette_of(models)
    told = {key: analysis[key] for key in ("models", "facts", "notes", "cautions")}
    write_json(out / ANALYSIS, told)
    return write_page(
        out,
        [
            *routing_sections(records, palette, any(_is_attached(entry) for entry in models)),
            *circuit_sections(records.get("circuits", [])),
            *representation_sections(records, palette),
        ],
        title="Inside the models: routing and representations by depth",
        lead=f"{_measured_on(facts)} Layers count from zero; representation 0 is the token embedding, m the output of "
        "layer m - 1.",
        palette=palette,
        tiles={entry["label"]: _tile(entry) for entry in models},
        cautions=analysis["cautions"],
        missing=_missing(analysis["notes"]),
        facts={
            "Command": made_now(),
            "Checkpoints": [(entry["label"], entry["checkpoint"]) for entry in models],
            "Data and environment": list(facts.items()),
        },
    )


def _is_attached(entry: dict[str, Any]) -> bool:
    return entry["routing"] is not None and entry["model_type"] != "lime"


def _measured_on(facts: dict[str, Any]) -> str:
    if not facts["tokens"]:
        return "Read from the models' weights alone: what was asked for needs no text."
    return (
        f"Measured on {facts['tokens']:,} tokens of text ({facts['data']}), in sequences of "
        f"{facts['sequence_length']:,}."
    )


def _tile(entry: dict[str, Any]) -> tuple[str, str]:
    kind = entry["model_type"] if entry["routing"] is None else f"{entry['model_type']}, {entry['routing']}"
    layers = "1 layer" if entry["num_layers"] == 1 else f"{entry['num_layers']} layers"
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
