"""Recipes as files: one TOML file per experiment that says what is different, and `--key value` for any field.

Adding a recipe is adding a file to the `recipes` folder. `extends` names the recipe from which a file takes whatever it
does not say itself; values that no file says are the defaults of `TrainingRecipe`, `EngineRecipe` and the data.
"""

import contextlib
import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.extras import import_extra
from limelm.recipes.data import ProblemData, TextData
from limelm.recipes.recipe import Recipe
from limelm.recipes.settings import EngineRecipe, TrainingRecipe
from limelm.records import AnyText, Label, build, load_toml, unknown_field
from limelm.text import printable

LONGEST_NAME = 100
NAME = rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST_NAME - 1}}}"


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    names = (path.name.removesuffix(".toml") for path in _recipe_folder().iterdir() if path.name.endswith(".toml"))
    return sorted(names, key=_with_numbers)


def load_recipe(text: str, overrides: Mapping[str, Any] | None = None, model: str | None = None) -> Recipe:
    """Load a recipe of the package by its name, or one's own by the path of its .toml file.

    Args:
        overrides: see `override`.
        model: the one model that is wanted, whose own fields can be overridden too.

    Raises:
        UserError: for an unknown recipe, a file that cannot be read, or an unknown, missing or mistyped field.
    """
    path = _path_of(text, Path())
    recipe = _recipe({**_resolved(path), "name": path.name.removesuffix(".toml")}, str(path))
    if model is not None and model not in recipe.models:
        raise UserError(f"recipe {recipe.name}: {unknown_field(model, recipe.models, 'model')}")
    return override(recipe, overrides or {}, model)


def the_model(recipe: Recipe, name: str | None) -> str:
    """The one model of a recipe that a command is about: `name`, or the only one.

    Raises:
        UserError: where there are several and none is named.
    """
    if name is None and len(recipe.models) > 1:
        raise UserError(f"recipe {recipe.name}: has several models; name one with --model: {', '.join(recipe.models)}")
    return name or next(iter(recipe.models))


def recipe_as_toml(recipe: Recipe) -> str:
    """A recipe with all of its values, as a TOML file from which it can be loaded again."""
    values = {key: value for key, value in recipe.to_dict().items() if key != "name"}
    text: str = import_extra("tomli_w", "lab").dumps(_without_none(values))
    return text


def override(recipe: Recipe, values: Mapping[str, Any], model: str | None = None) -> Recipe:
    """Override values of a recipe by their fields' names.

    Args:
        values: by field: `steps`, `training.steps`, `hidden_size`, `routing_top_p`, ... A text is read in TOML's
            notation, in which strings need no quotation marks; what is no text is taken as it is.
        model: the one model that is wanted, whose own fields can be named too.

    Raises:
        UserError: for an unknown field, with the nearest known one, or a value that does not fit.
    """
    if not values:
        return recipe
    content = recipe.to_dict()
    places = recipe.kind.override_places(content, model)
    if model is None:  # one training has one of each
        places["seeds"] = places["learning_rates"] = content
    for section, kind in (("data", type(recipe.data)), ("training", TrainingRecipe), ("engine", EngineRecipe)):
        for field in fields(kind):
            places[field.name] = places[f"{section}.{field.name}"] = content[section]
    for name, text in values.items():
        key = name.replace("-", "_")
        if key not in places:
            raise UserError(f"recipe {recipe.name}: {_no_place(key, places, recipe, model)}")
        places[key][key.split(".")[-1]] = _value(text)
    return _recipe(content, f"recipe {recipe.name}")


def _no_place(key: str, places: Mapping[str, Any], recipe: Recipe, model: str | None) -> str:
    """Say why a field of this name cannot be overridden."""
    if key == "seeds":
        return "one training has one seed; name it with --seed"
    if key == "learning_rates":
        return "one training has one learning rate; name it with --learning-rate"
    if key == "base":
        return "trains from scratch; --from MODEL is for the recipe attach"
    if model is None and any(key in recipe.kind.override_places(recipe.to_dict(), name) for name in recipe.models):
        return f"{key} is a field of single models; set it in a recipe of your own"
    return unknown_field(key, places)


def _resolved(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file upon the recipe that it extends."""
    content = load_toml(path)
    if "extends" not in content:
        return content
    name = build(AnyText, content.pop("extends"), str(path), "extends")
    try:
        extended = _path_of(name, path.parent)
        way = (*extended_by, path.resolve())
        if extended.resolve() in way:
            raise UserError(f"{' extends '.join(each.name for each in (*way, extended))}")
        return _merged(_resolved(extended, way), content)
    except UserError as error:
        raise UserError(f"{path}: extends={name!r}: {error}") from error


def _merged(parent: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Lay a recipe's values over those of the recipe that it extends, field by field.

    Where it has another kind of models (`base`) or of data (`task`, `preset`), it takes none of that part over.
    """
    parent = {key: value for key, value in parent.items() if key not in ("description", *_replaced(parent, own))}
    return _over(parent, own)


def _replaced(parent: dict[str, Any], own: dict[str, Any]) -> list[str]:
    before, after = (_table(content, "data") for content in (parent, own))
    of_models = ["architecture", "models", "compare", "data"] if "base" in own and "base" not in parent else []
    is_other = ("task" in after and "task" not in before) or ("preset" in after and "task" in before)
    return of_models + ["data"] * is_other


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name)
    return table if isinstance(table, dict) else {}


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _over(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}


def _path_of(text: str, folder: Path) -> Path:
    """The file of a recipe of the package, or one's own, whose path may be relative to `folder`."""
    if text.endswith(".toml"):
        return folder / text
    names = recipe_names()
    if text not in names:
        near = difflib.get_close_matches(text, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown recipe {text!r}; {hint}allowed: the path of a .toml file, {', '.join(names)}")
    return Path(str(_recipe_folder() / f"{text}.toml"))


def _value(text: Any) -> Any:
    """Read a field's value as recipes write it, or as JSON, the way messages name values; else it is plain text."""
    if not isinstance(text, str):
        return text
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {text}")["value"]
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(text)
    return text


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what TOML cannot say and the recipe's defaults are."""
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def _recipe(content: dict[str, Any], where: str) -> Recipe:
    if "data" in content:  # it is about problems if it has a task, otherwise about text
        data = build(dict[str, Any], content["data"], where, "data")
        content = {**content, "data": build(ProblemData if "task" in data else TextData, data, where, "data")}
    if isinstance(content.get("models"), dict):
        content = {"compare": list(content["models"]), **content}
    recipe: Recipe = build(Recipe, content, where)
    _check_names(recipe, where)
    recipe = replace(recipe, compare=tuple(dict.fromkeys(recipe.compare)))
    _ = recipe.subjects  # read now, so that a recipe with a field that is none is refused at once
    return recipe


def _check_names(recipe: Recipe, where: str) -> None:
    """Refuse invalid or equal names and labels: models are folders of a run and entries of its figures."""
    labels: dict[str, str] = {}
    for name, model in recipe.models.items():
        if not re.fullmatch(NAME, name) or name == "all":
            raise UserError(
                f"{where}: models.{printable(name)!r} is no name; use up to {LONGEST_NAME} letters, digits, '-', '_' "
                "and '.', and not 'all'"
            )
        label = build(Label, model.get("label", name), where, f"models.{name}.label")
        if label in labels:
            raise UserError(f"{where}: models.{labels[label]} and models.{name} have the same label {label!r}")
        labels[label] = name
    for name in recipe.compare:
        if name not in recipe.models:
            raise UserError(f"{where}: compare: {unknown_field(name, recipe.models, 'model')}")


def _with_numbers(name: str) -> list[int | str]:
    """A key by which deep-64 stands before deep-128."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _recipe_folder():
    return resources.files("limelm.recipes")
