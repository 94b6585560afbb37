"""The identity of a run, so that it goes on with the same settings and data or not at all."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.training.adapted import describe_base
from limelm.training.recipe import Recipe


def identify(recipe: Recipe, name: str, data_sha256: str) -> dict[str, Any]:
    """Describe everything that decides a model's result: configuration, training and data, but not the engine."""
    model = {key: value for key, value in recipe.models[name].items() if key != "label"}
    return {
        "model": name,
        "architecture": {**recipe.architecture, **model},
        "sequence_length": recipe.data.sequence_length,
        "training": asdict(recipe.training),
        "data_sha256": data_sha256,
        **({} if recipe.base is None else describe_base(recipe.base)),
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
