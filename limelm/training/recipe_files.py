"""Recipes as files: one readable TOML file per experiment, and how its fields are overridden by name.

Adding a recipe is adding a file to the `recipes` folder. `RECIPE-MODEL`, as in `paper-1.2b-static`, names one of its
models; the part of a name before a dash, as in `deep`, names all the recipes that begin with it.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.models import MODEL_TYPES
from limelm.records import Label, build, load_toml, unknown_field
from limelm.text import printable
from limelm.training.adapted import AdaptedModel
from limelm.training.recipe import (
    DataRecipe,
    EngineRecipe,
    ProblemRecipe,
    Recipe,
    TrainingRecipe,
    config_fields,
)

LONGEST_NAME = 100
NAME = rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST_NAME - 1}}}"


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    names = (path.name.removesuffix(".toml") for path in _recipe_folder().iterdir() if path.name.endswith(".toml"))
    return sorted(
        names, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    )


def scale_names() -> list[str]:
    """The names that `load_scale` knows: recipes, and common beginnings of several recipes' names."""
    return list(dict.fromkeys(scale for name in recipe_names() for scale in (name.split("-")[0], name)))


def load_scale(scale: str, overrides: Mapping[str, str] | None = None) -> list[Recipe]:
    """Load the recipes of a scale: one by its name, several by their common beginning, one's own by its path.

    Args:
        overrides: see `override`.

    Raises:
        UserError: for an unknown scale, a file that cannot be read, or an unknown, missing or mistyped key.
    """
    if scale.endswith(".toml") or scale in recipe_names():
        recipes = [load_recipe(scale)]
    else:
        names = [name for name in recipe_names() if name.split("-")[0] == scale]
        if not names:
            raise UserError(f"--scale {scale}: {_unknown_recipe(scale, scale_names(), scale_names())}")
        recipes = [load_recipe(name) for name in names]
    return [override(recipe, overrides or {}) for recipe in recipes]


def load_experiment(
    text: str, model: str | None = None, overrides: Mapping[str, str] | None = None
) -> tuple[Recipe, str]:
    """Load one model of a recipe, by a name such as `paper-1.2b-static`, or by recipe (or .toml file) and model.

    Raises:
        UserError: for an unknown recipe, model or field.
    """
    recipes = [name for name in recipe_names() if text == name or text.startswith(f"{name}-")]
    if text.endswith(".toml"):
        recipe = load_recipe(text)
    elif recipes:
        recipe = load_recipe(max(recipes, key=len))
        if text != recipe.name:
            model = _one_model(text.removeprefix(f"{recipe.name}-"), model, text)
    else:
        known = [f"{name}-{model}" for name in recipe_names() for model in load_recipe(name).models]
        raise UserError(f"recipe {text}: {_unknown_recipe(text, known, recipe_names())}, each with -MODEL")
    if model is None and len(recipe.models) == 1:
        (model,) = recipe.models
    if model is None or model not in recipe.models:
        said = "names no model" if model is None else f"there is no model {model!r} in it"
        raise UserError(f"recipe {recipe.name}: {said}; its models: {', '.join(recipe.models)}")
    return override(recipe, overrides or {}, model), model


def load_recipe(name: str) -> Recipe:
    """Load a recipe of the package by its name, or one's own by the path of its .toml file.

    Raises:
        UserError: for a file that cannot be read, or an unknown, missing or mistyped key.
    """
    path = Path(name) if name.endswith(".toml") else Path(str(_recipe_folder() / f"{name}.toml"))
    return _recipe({**load_toml(path), "name": path.name.removesuffix(".toml")}, str(path))


def override(recipe: Recipe, values: Mapping[str, str], model: str | None = None) -> Recipe:
    """Override values of a recipe by their fields' names.

    Args:
        values: texts in TOML's notation by field: `steps`, `training.steps`, `hidden_size`, `routing_top_p`, ...
            Strings need no quotation marks.
        model: the one model that is wanted, whose own fields can be named too.

    Raises:
        UserError: for an unknown field, with the nearest known one, or a value that does not fit.
    """
    if not values:
        return recipe
    content = recipe.to_dict()
    for key, text in values.items():
        table, field = _place(content, key.replace("-", "_"), model)
        table[field] = _toml_value(text)
    return _recipe(content, f"recipe {recipe.name}")


def _place(content: dict[str, Any], key: str, model: str | None) -> tuple[dict[str, Any], str]:
    """Find the table, and the field in it, that `key` names."""
    own = content["models"][model] if model else {}
    places: dict[str, dict[str, Any]] = {}
    if model is None:  # one training has one seed
        places["seeds"] = content
    if content["base"] is not None:
        places["base"] = content
        places |= dict.fromkeys((field.name for field in fields(AdaptedModel)), own) if model else {}
    else:
        shape = config_fields("llama") - {"vocab_size"}
        places |= dict.fromkeys(shape, content["architecture"])
        if model:
            model_fields = config_fields(own["model_type"]) if own.get("model_type") in MODEL_TYPES else set()
            places |= dict.fromkeys(model_fields - shape | own.keys() & shape, own)
    of_data = ProblemRecipe if "task" in content["data"] else DataRecipe
    for section, kind in (("data", of_data), ("training", TrainingRecipe), ("engine", EngineRecipe)):
        for field in fields(kind):
            places[field.name] = places[f"{section}.{field.name}"] = content[section]
    if key not in places:
        raise UserError(f"recipe {content['name']}: {unknown_field(key, places)}")
    return places[key], key.split(".")[-1]


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _unknown_recipe(name: str, known: list[str], allowed: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"unknown recipe{hint} allowed: the path of a .toml file, {', '.join(allowed)}"


def _one_model(named: str, model: str | None, text: str) -> str:
    if model is not None and model != named:
        raise UserError(f"recipe {text} names the model {named!r}, but --model says {model!r}")
    return named


def _recipe(content: dict[str, Any], where: str) -> Recipe:
    if "data" in content:  # it is about problems if it has a task, otherwise about text
        data = build(dict[str, Any], content["data"], where, "data")
        content = {**content, "data": build(ProblemRecipe if "task" in data else DataRecipe, data, where, "data")}
    recipe: Recipe = build(Recipe, content, where)
    _check_names(recipe, where)
    return replace(recipe, compare=tuple(dict.fromkeys(recipe.compare)))


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
        if recipe.base is not None:
            recipe.adapted(name)
    if not recipe.compare:
        raise UserError(f"{where}: compare=[] must name at least one model")
    for name in recipe.compare:
        if name not in recipe.models:
            raise UserError(f"{where}: compare: {unknown_field(name, recipe.models, 'model')}")


def _recipe_folder():
    return resources.files("limelm.training") / "recipes"
