"""Options shared by commands that take a recipe: its model, how to train it, and `--key value` for any field."""

import argparse
import difflib
from typing import TYPE_CHECKING

from limelm.cli.options import add_shared
from limelm.errors import UserError

if TYPE_CHECKING:
    from limelm.training import Recipe

EXPLANATION = """\
Any other --key value overrides the recipe's field of that name, as in --steps 100 --hidden-size 512. A list is written
as in --lora-layers '[1, 3]'. Fields of a single model can be overridden only in the commands train and plan."""


#: Fields of [data] that say how a recipe's own text or problems are prepared.
OF_OWN_DATA = ("preset", "vocab_size", "validation_fraction", "test_file")


def add_model_of_recipe(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names one model of a recipe."""
    parser.add_argument("--model", metavar="NAME", help="the recipe's model to use; needed if it has several")


def add_text_and_base(parser: argparse.ArgumentParser) -> None:
    """Declare what a training reads and what it starts from."""
    add_shared(parser, "--data", " (default: the recipe's own)")
    add_shared(parser, "--from", "; for the recipe attach")


def recipe_and_model(options: argparse.Namespace, fields: dict[str, str]) -> "tuple[Recipe, str]":
    """Load the recipe and choose the model that RECIPE and --model name, with other values for some fields.

    Raises:
        UserError: for an unknown recipe, model or field.
    """
    from limelm.recipes.files import load_recipe, override, the_model

    if "models" in fields:
        raise UserError("--models: one model at a time; name it with --model")
    recipe = load_recipe(options.recipe, model=options.model)
    name = the_model(recipe, options.model)
    return override(recipe, fields, name), name


def all_fields(options: argparse.Namespace) -> dict[str, str]:
    """The values of the recipe's fields, --from among them.

    Raises:
        UserError: where that is given under both of its names, or where --data leaves a field without effect.
    """
    for name in OF_OWN_DATA if getattr(options, "data", None) is not None else ():
        if name in options.fields or f"data.{name}" in options.fields:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option}: not with --data, whose folder was prepared before; leave one of the two out")
    if getattr(options, "base", None) is None:
        return options.fields
    if "base" in options.fields:
        raise UserError("--base: the same as --from")
    return {**options.fields, "base": options.base}


def split_fields(parser: argparse.ArgumentParser, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Split the command line into the arguments for the parser and the values of the recipe's fields.

    Raises:
        UserError: for a field without a value, or one that is given twice.
    """
    own = parser._option_string_actions
    left: list[str] = []
    fields: dict[str, str] = {}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or name in own or len(name) == 2:
            left.append(argument)
            continue
        key = name.removeprefix("--").replace("-", "_")
        if not equals:
            value = next(remaining, "--")
            if value.startswith("--"):
                near = difflib.get_close_matches(name, own, n=1)
                raise UserError(f"{name}: needs a value" + (f"; did you mean {near[0]}?" if near else ""))
        if not value.strip():
            raise UserError(f"{name}: is empty")
        if key in fields:
            raise UserError(f"{name}: given twice")
        fields[key] = value
    return left, fields
