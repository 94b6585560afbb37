"""Summaries: `summary.json` of a run, on all of its trainings."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from limelm.environment import environment
from limelm.errors import UserError
from limelm.provenance import provenance
from limelm.recipes.recipe import Recipe
from limelm.records import Check, Count, FileName, Label, NotNegative, PositiveFloat, Records, build, load_json
from limelm.training.places import Divergence, Outcomes, Place, best_learning_rates, find_outcomes
from limelm.training.result import TrainingResult

SUMMARY = "summary.json"
OF_THE_MOMENT = ("environment", "provenance")  # says when and where it was written, not what came out


@dataclass(frozen=True)
class TrainingSummary(TrainingResult):
    """One training of a run: its seed, its `result.json`, and its folder as it was written."""

    seed: Count = field(kw_only=True)
    checkpoint: str = field(kw_only=True)
    learning_rate: PositiveFloat | None = None


@dataclass(frozen=True)
class SearchedRate:
    """One model at one learning rate: its held-out loss, or the step at which it diverged."""

    name: FileName
    label: Label
    seed: Count
    learning_rate: PositiveFloat
    eval_loss: NotNegative | None
    diverged_at: Count | None
    is_best: bool


@dataclass(frozen=True)
class Summary:
    """`summary.json`: see `summarize_run`."""

    name: str
    recipe: dict[str, Any]
    data: dict[str, str | int]
    environment: dict[str, str | int]
    provenance: dict[str, str | None]
    seeds: tuple[Count, ...]
    trainings: Annotated[tuple[TrainingSummary, ...], Check(len, "one training or more")]
    base: str | None = None
    search: tuple[SearchedRate, ...] = ()

    def __post_init__(self) -> None:
        places = [(training.seed, training.name) for training in self.trainings]
        if len(set(places)) < len(places) or tuple(sorted({seed for seed, _ in places})) != self.seeds:
            raise ValueError("seeds and trainings do not belong together")


def summarize_run(recipe: Recipe, out: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Make the content of `summary.json` from the results in the folder.

    Args:
        described: the data, from `limelm.recipes.data.Data.describe`.

    Returns:
        `name` and `recipe` (all that decides the result), `base` (of a pretrained model), `data`, `environment`,
        `provenance` (see `limelm.provenance.provenance`), `seeds`, and `trainings`: the `seed` of each, its
        `result.json`, and its `checkpoint` relative to the run's folder. Of a recipe that searches for learning rates
        the `trainings` are those at each model's best, with their `learning_rate`; `search` has the others.

    Raises:
        UserError: where no training has a result, because all diverged.
    """
    outcomes = find_outcomes(recipe, out)
    best = best_learning_rates(recipe, outcomes)
    trainings = [
        {
            "seed": place.seed,
            **asdict(outcome),
            "label": recipe.subjects[place.name].label,
            "checkpoint": place.folder,
            **({} if place.learning_rate is None else {"learning_rate": place.learning_rate}),
        }
        for place, outcome in outcomes.items()
        if isinstance(outcome, TrainingResult) and best.get(place.name, 0) == place.learning_rate
    ]
    if not trainings:
        raise UserError(f"recipe {recipe.name}: every training diverged; name lower learning_rates")
    values = recipe.published()
    parts = ("architecture", "models", "data", "training", *(["learning_rates"] if recipe.learning_rates else []))
    return {
        "name": recipe.name,
        **({} if recipe.base is None else {"base": values["base"]}),
        "recipe": {key: values[key] for key in parts},
        "data": {"sequence_length": recipe.data.sequence_length, **described},
        "environment": environment(),
        "provenance": provenance(),
        "seeds": list(dict.fromkeys(training["seed"] for training in trainings)),
        "trainings": trainings,
        **({"search": _search(recipe, outcomes, best)} if recipe.learning_rates else {}),
    }


def _search(recipe: Recipe, outcomes: Outcomes, best: dict[str, float | None]) -> Records:
    """Records of `SearchedRate`: all rates with the first seed, and what diverged with the others."""
    return [
        {
            "name": place.name,
            "label": recipe.subjects[place.name].label,
            "seed": place.seed,
            "learning_rate": place.learning_rate,
            "eval_loss": outcome.eval_loss if isinstance(outcome, TrainingResult) else None,
            "diverged_at": outcome.step if isinstance(outcome, Divergence) else None,
            "is_best": best.get(place.name) == place.learning_rate,
        }
        for name in recipe.names
        for place, outcome in outcomes.items()
        if place.name == name and (place.seed == recipe.training.seed or isinstance(outcome, Divergence))
    ]


def is_up_to_date(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether `summary.json` holds all results in the folder, and no others."""
    try:
        written = _read_summary(out)
    except UserError:
        return False
    return _lasting(written) == _lasting(wanted)


def read_summary(out: Path) -> dict[str, Any]:
    """Read a run's summary, with each training's `checkpoint` as a path, and the summary's own `fingerprint`.

    Raises:
        UserError: where it is missing, broken, or made by an earlier version.
    """
    summary = _read_summary(out)
    for training in summary["trainings"]:
        place = Place(training["seed"], training["name"], training.get("learning_rate"))
        training["checkpoint"] = str(out / place.folder)
    return {**summary, "fingerprint": hashlib.sha256((out / SUMMARY).read_bytes()).hexdigest()}


def _read_summary(out: Path) -> dict[str, Any]:
    path = out / SUMMARY
    content: dict[str, Any] = load_json(path)
    if isinstance(content, dict) and "trainings" not in content and "models" in content:
        raise UserError(f"{path}: made by an earlier version; reproduce the run in a new folder")
    build(Summary, content, str(path))
    return content


def _lasting(summary: dict[str, Any]) -> str:
    """The lasting part of a summary, as text, because NaN is not equal to itself."""
    return json.dumps({key: value for key, value in summary.items() if key not in OF_THE_MOMENT}, sort_keys=True)
