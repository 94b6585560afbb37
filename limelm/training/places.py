"""The trainings of a run, what became of each, and the search for each model's learning rate.

With the recipe's `learning_rates`, each model is trained at every one with the first seed. The best is the one with the
lowest held-out loss (the lower rate of two equal ones; a training that diverged is never the best), and the other seeds
are trained at it. All of this shows from the results alone, so a search goes on wherever it was broken off.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from limelm.errors import UserError
from limelm.files import write_text
from limelm.recipes.recipe import Recipe
from limelm.records import Count, read_json
from limelm.training.result import TrainingResult, read_result

DIVERGED = "diverged.json"


@dataclass(frozen=True)
class Place:
    """One training of a run: its seed and model, and its learning rate where the recipe searches for that."""

    seed: int
    name: str
    learning_rate: float | None = None

    @property
    def folder(self) -> str:
        """The training's folder in that of the run."""
        return f"{_folder_of_rate(self.learning_rate)}seed-{self.seed}/{self.name}"


def _folder_of_rate(learning_rate: float | None) -> str:
    return "" if learning_rate is None else f"learning-rate-{learning_rate!r}/"


@dataclass(frozen=True)
class Divergence:
    """`diverged.json`: in a search, the end of a training in which a value was not finite any more.

    Attributes:
        value: "loss", "grad_norm" or "eval_loss".
    """

    step: Count
    value: str

    def save(self, folder: Path) -> None:
        """Write the file."""
        write_text(folder / DIVERGED, json.dumps(asdict(self), indent=2) + "\n")


class Diverged(UserError):
    """A training whose loss or gradient is not finite any more."""

    def __init__(self, message: str, divergence: Divergence):
        super().__init__(message)
        self.divergence = divergence


Outcomes = Mapping[Place, TrainingResult | Divergence]


def find_outcomes(recipe: Recipe, out: Path) -> dict[Place, TrainingResult | Divergence]:
    """Read what became of all trainings in a run's folder: of the recipe's models and rates, whatever their seeds.

    They are sorted by seed, model (see `Recipe.names`) and learning rate.

    Raises:
        UserError: for a file that is broken.
    """
    outcomes = {}
    for rate in recipe.learning_rates or (None,):
        for seed in _seeds_in(out / _folder_of_rate(rate)):
            for place in (Place(seed, name, rate) for name in recipe.models):
                outcome = read_result(out / place.folder) or (rate and _read_divergence(out / place.folder))
                if outcome:
                    outcomes[place] = outcome
    names = recipe.names
    return dict(sorted(outcomes.items(), key=lambda item: (item[0].seed, names.index(item[0].name))))


def _seeds_in(folder: Path) -> list[int]:
    names = (re.fullmatch(r"seed-(0|[1-9]\d{0,9})", path.name) for path in folder.glob("seed-*"))
    return sorted(int(match[1]) for match in names if match)


def _read_divergence(folder: Path) -> Divergence | None:
    path = folder / DIVERGED
    return read_json(path, Divergence) if path.exists() else None


def best_learning_rates(recipe: Recipe, outcomes: Outcomes) -> dict[str, float | None]:
    """The learning rate of each model whose search is complete; None of every model where there is no search.

    A model that diverged at every rate has none.
    """
    if not recipe.learning_rates:
        return dict.fromkeys(recipe.models)
    best = {}
    for name in recipe.models:
        found = {place.learning_rate: outcomes.get(place) for place in _searched(recipe, name)}
        losses = {rate: each.eval_loss for rate, each in found.items() if isinstance(each, TrainingResult)}
        if losses and None not in found.values():
            best[name] = min(losses, key=lambda rate: losses[rate])
    return best


def missing_trainings(recipe: Recipe, names: Sequence[str], outcomes: Outcomes) -> list[Place]:
    """The trainings that a run lacks; while a search is not complete, those of the search alone."""
    searched = [place for name in names for place in _searched(recipe, name) if place not in outcomes]
    if searched:
        return searched
    best = best_learning_rates(recipe, outcomes)
    seeds = range(recipe.training.seed, recipe.training.seed + recipe.seeds)
    wanted = [Place(seed, name, best[name]) for seed in seeds for name in names if name in best]
    return [place for place in wanted if place not in outcomes]


def _searched(recipe: Recipe, name: str) -> list[Place]:
    return [Place(recipe.training.seed, name, rate) for rate in recipe.learning_rates]
