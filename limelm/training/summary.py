"""`summary.json`: the results of a run's models, and how the run was made, without paths outside the run."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from limelm.environment import environment
from limelm.errors import UserError
from limelm.provenance import provenance
from limelm.records import Check, build, load_json
from limelm.training.recipe import Recipe
from limelm.training.result import TrainingResult, read_result

SUMMARY, MODELS = "summary.json", "models"
OF_THE_MOMENT = ("environment", "provenance")  # says when and where it was written, not what came out


@dataclass(frozen=True)
class ModelSummary(TrainingResult):
    """One model: its `result.json`, and its folder as it was written (readers find it by the model's name)."""

    checkpoint: str = ""


@dataclass(frozen=True)
class Summary:
    """`summary.json`: see `summarize_run`."""

    scale: str
    recipe: dict[str, Any]
    data: dict[str, str | int]
    environment: dict[str, str | int]
    provenance: dict[str, str | None]
    models: Annotated[tuple[ModelSummary, ...], Check(len, "one model or more")]
    base: str | None = None


def summarize_run(recipe: Recipe, out: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Make the content of `summary.json` from the results in the folder.

    Args:
        described: the data, from `describe_data`.

    Returns:
        `scale`, `recipe` (all that decides the result), `base` (of a pretrained model), `data`, `environment`,
        `provenance` (see `limelm.provenance.provenance`), and `models`: each one's `result.json`, with its
        `checkpoint` relative to the run's folder.
    """
    results = {name: read_result(out / MODELS / name) for name in recipe.models}
    models = [
        {**asdict(result), "label": recipe.label(name), "checkpoint": f"{MODELS}/{name}"}
        for name, result in results.items()
        if result is not None
    ]
    values = recipe.published()
    return {
        "scale": recipe.name,
        **({} if recipe.base is None else {"base": values["base"]}),
        "recipe": {key: values[key] for key in ("architecture", "models", "data", "training")},
        "data": {"sequence_length": recipe.data.sequence_length, **described},
        "environment": environment(),
        "provenance": provenance(),
        "models": models,
    }


def is_up_to_date(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether `summary.json` holds all results in the folder, and no others."""
    try:
        written = _read(out)
    except UserError:
        return False
    return _lasting(written) == _lasting(wanted)


def read_summary(out: Path) -> dict[str, Any]:
    """Read a run's summary, with each model's `checkpoint` as a path, and the summary's own `fingerprint`.

    Raises:
        UserError: where it is missing or broken.
    """
    summary = _read(out)
    for entry in summary["models"]:
        entry["checkpoint"] = str(out / MODELS / entry["name"])
    return {**summary, "fingerprint": hashlib.sha256((out / SUMMARY).read_bytes()).hexdigest()}


def results_fingerprint(summaries: Iterable[dict[str, Any]]) -> str:
    """A mark for a report of these summaries, by which it is known whether the report has all results."""
    return hashlib.sha256("".join(summary["fingerprint"] for summary in summaries).encode()).hexdigest()


def _read(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = load_json(out / SUMMARY)
    build(Summary, content, str(out / SUMMARY))
    return content


def _lasting(summary: dict[str, Any]) -> str:
    """The lasting part of a summary, as text, because NaN is not equal to itself."""
    return json.dumps({key: value for key, value in summary.items() if key not in OF_THE_MOMENT}, sort_keys=True)
