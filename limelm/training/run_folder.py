"""`run.json`: what a folder belongs to, so that it goes on with the same settings and data or not at all."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.files import partial_of
from limelm.recipes.data import DATA
from limelm.recipes.recipe import Recipe
from limelm.records import read_json

RUN, LOCK = "run.json", ".lock"
FORMAT = 2  # of a run of several trainings: version 1 had a folder of its own for every seed
# What may be there before run.json.
OWN = (LOCK, DATA, *(partial_of(Path(name)).name for name in (RUN, DATA)))


@dataclass(frozen=True)
class RunFile:
    """`run.json`: what decides the result; of one training also the resolved recipe, and where it was made.

    Attributes:
        format: `FORMAT` for a run of several trainings, None for one training.
    """

    run: dict[str, Any]
    format: int | None = None
    recipe: dict[str, Any] | None = None
    environment: dict[str, str | int] | None = None


def read_run(folder: Path, wanted: int | None = None) -> dict[str, Any] | None:
    """Read a folder's `run.json`; None for a folder that is new, empty, or holds its data only.

    Args:
        wanted: the format.

    Raises:
        UserError: where the folder holds something else, or cannot be used.
    """
    path = folder / RUN
    try:
        if not folder.exists():
            return None
        if not folder.is_dir():
            raise UserError(f"{folder}: not a folder")
        if not os.access(folder, os.W_OK):
            raise UserError(f"{folder}: not writable")
        if not path.exists():
            others = sorted(entry.name for entry in folder.iterdir() if entry.name not in OWN)
            if others:
                raise UserError(f"{folder}: already holds other files ({others[0]}); name a new folder")
            return None
    except OSError as error:
        raise UserError.from_os_error(folder, error) from error
    try:
        found: RunFile = read_json(path, RunFile)
        if found.format != wanted:
            held = "a run of several trainings" if found.format else "one training, or a run of an earlier version"
            raise UserError(f"{path}: belongs to {held}")
    except UserError as error:
        raise UserError(f"{error}; name a new folder") from error
    return found.run


def identify(recipe: Recipe, name: str, data_sha256: str) -> dict[str, Any]:
    """Describe everything that decides a model's result: configuration, training and data, but not the engine."""
    return {
        "model": name,
        **recipe.subjects[name].identity(),
        "sequence_length": recipe.data.sequence_length,
        "training": asdict(recipe.training),
        "data_sha256": data_sha256,
    }


def refuse_other_run(
    where: Path, recorded: dict[str, Any], wanted: dict[str, Any], may_differ: Iterable[tuple[str, ...]] = ()
) -> None:
    """Compare two descriptions of a run.

    Args:
        may_differ: what does not count, by the path to it, such as `("recipe", "engine")`.

    Raises:
        UserError: for the first value in which they differ, by its name.
    """
    before, now = _flatten(recorded), _flatten(wanted)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not any(key[: len(start)] == start for start in may_differ):
            raise UserError(
                f"{where}: holds a run with {'.'.join(key)}={before.get(key)!r}, not {now.get(key)!r}; "
                "name a new folder"
            )


def _flatten(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Flatten nested tables into one, by the path of each value."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value}
    return flat
