"""Recipes as files: one readable TOML file per experiment, and how its fields are overridden by name.

Adding a recipe is adding a file to the `recipes` folder. `RECIPE-MODEL`, as in `paper-1.2b-static`, names one of its
models; the part of a name before a dash, as in `deep`, names all the recipes that begin with it.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from limelm.errors import UserError
from limelm.models import MODEL_TYPES
from limelm.training.adapted import AdaptedModel
from limelm.training.recipe import (
    DataRecipe,
    EngineRecipe,
    ProblemRecipe,
    Recipe,
    TrainingRecipe,
    config_fields,
    unknown_key,
)

SECTIONS: dict[str, type] = {"training": TrainingRecipe, "engine": EngineRecipe}


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    names = (path.name.removesuffix(".toml") for path in _recipe_folder().iterdir() if path.name.endswith(".toml"))
    return sorted(
        names, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    )


def scale_names() -> list[str]:
    """What `load_scale` knows: recipes, and what several of them begin with."""
    return list(dict.fromkeys(scale for name in recipe_names() for scale in (name.split("-")[0], name)))


def load_scale(scale: str, overrides: Mapping[str, str] | None = None) -> list[Recipe]:
    """The recipes of a scale: one of the package by its name, several by what they begin with, one's own by its path.

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
            allowed = ", ".join(scale_names())
            raise UserError(f"--scale {scale}: unknown scale; allowed: {allowed}, or the path of a .toml file")
        recipes = [load_recipe(name) for name in names]
    return [override(recipe, overrides or {}) for recipe in recipes]


def load_experiment(
    text: str, model: str | None = None, overrides: Mapping[str, str] | None = None
) -> tuple[Recipe, str]:
    """One model of a recipe, by a name such as `paper-1.2b-static`, or by recipe (or .toml file) and model.

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
        raise UserError(f"recipe {text}: {unknown_key(text, known).replace('key', 'recipe')}")
    if model is None and len(recipe.models) == 1:
        (model,) = recipe.models
    if model is None or model not in recipe.models:
        said = "names no model" if model is None else f"there is no model {model!r} in it"
        raise UserError(f"recipe {recipe.name}: {said}; its models: {', '.join(recipe.models)}")
    return override(recipe, overrides or {}, model), model


def load_recipe(name: str) -> Recipe:
    """A recipe of the package by its name, or one's own by the path of its .toml file.

    Raises:
        UserError: for a file that cannot be read, or an unknown, missing or mistyped key.
    """
    path = Path(name) if name.endswith(".toml") else Path(str(_recipe_folder() / f"{name}.toml"))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError.from_os_error(path, error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML ({error})") from error
    content["name"] = path.name.removesuffix(".toml")
    content.setdefault("base", None)
    return _recipe(content, str(path))


def override(recipe: Recipe, values: Mapping[str, str], model: str | None = None) -> Recipe:
    """The recipe with other values, each by its field's name.

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
    """The table and the field in it that `key` names."""
    own = content["models"][model] if model else {}
    places: dict[str, dict[str, Any]] = {}
    if content["base"] is not None:
        places["base"] = content
        places |= dict.fromkeys((field.name for field in fields(AdaptedModel)), own) if model else {}
    else:
        shape = config_fields("llama") - {"vocab_size"}
        places |= dict.fromkeys(shape, content["architecture"])
        if model:
            model_fields = config_fields(own["model_type"]) if own.get("model_type") in MODEL_TYPES else set()
            places |= dict.fromkeys(model_fields - shape | own.keys() & shape, own)
    for section, kind in _sections(content).items():
        for field in fields(kind):
            places[field.name] = places[f"{section}.{field.name}"] = content[section]
    if key not in places:
        raise UserError(f"recipe {content['name']}: {unknown_key(key, places)}")
    return places[key], key.split(".")[-1]


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _one_model(named: str, model: str | None, text: str) -> str:
    if model is not None and model != named:
        raise UserError(f"recipe {text} names the model {named!r}, but --model says {model!r}")
    return named


def _recipe(content: dict[str, Any], where: str) -> Recipe:
    content = dict(content)
    for section, kind in _sections(content).items():
        content[section] = _build(kind, content.get(section, {}), f"{where} [{section}]")
    recipe = _build(Recipe, content, where)
    _check_names(recipe, where)
    return replace(recipe, compare=tuple(dict.fromkeys(recipe.compare)))


def _sections(content: Mapping[str, Any]) -> dict[str, type]:
    """What each table of a recipe is; [data] with a task is about problems, else about text."""
    data = content.get("data")
    return {"data": ProblemRecipe if isinstance(data, dict) and "task" in data else DataRecipe, **SECTIONS}


def _check_names(recipe: Recipe, where: str) -> None:
    """Models are folders of a run and entries of its figures, so each needs a name and a label of its own."""
    for name, model in recipe.models.items():
        if not isinstance(model, dict):
            raise UserError(f"{where}: models.{name}={model!r} must be a table")
        if recipe.base is not None:
            own = {key: value for key, value in model.items() if key != "label"}
            _check_types(AdaptedModel, own, f"{where} [models.{name}]")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name == "all":
            raise UserError(
                f"{where}: models.{name!r} is no name; use letters, digits, '-', '_' and '.', and not 'all'"
            )
    labels = [recipe.label(name) for name in recipe.models]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"{where}: two models have the label {label!r}")
    if not recipe.compare:
        raise UserError(f"{where}: compare=[] must name at least one model")
    for name in recipe.compare:
        if name not in list(recipe.models):
            raise UserError(f"{where}: compare has {name!r}, but there is no [models.{name}]")


T = TypeVar("T")
# How TOML writes what a field holds.
_TOML_TYPES = {bool: (bool,), int: (int,), float: (float, int), str: (str,), tuple: (list,), dict: (dict,)}
_TOML_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a list",
    dict: "a table",
}


def _build(kind: type[T], values: Any, where: str) -> T:
    """`kind(**values)` after a check of every key and type."""
    known = _check_types(kind, values, where)
    missing = known.keys() - values
    if missing:
        raise UserError(f"{where}: no value for {', '.join(sorted(missing))}")
    return kind(**values)


def _check_types(kind: type, values: Any, where: str) -> dict[str, Any]:
    """Refuse an unknown key or a value of another type; gives the type of each known key, None aside."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: must be a table, not {values!r}")
    types: dict[str, Any] = {field.name: field.type for field in fields(kind)}
    known: dict[str, Any] = {
        name: get_args(of)[0] if type(of) is UnionType else get_origin(of) or of for name, of in types.items()
    }
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}: {unknown_key(key, known)}")
        if value is None and type(types[key]) is UnionType:
            continue
        if known[key] in _TOML_TYPES and type(value) not in _TOML_TYPES[known[key]]:
            raise UserError(f"{where}: {key}={value!r} must be {_TOML_NAMES[known[key]]}")
    return known


def _recipe_folder():
    return resources.files("limelm.training") / "recipes"
