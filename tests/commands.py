"""Command lines of pages and scripts, taken by the real parser: they name recipes, models and cases that there are."""

import argparse

from limelm.benchmark.cases import COMPARED_CASES
from limelm.benchmark.shape import SHAPES
from limelm.benchmark.workloads import WORKLOADS
from limelm.cli.demo import RECIPE
from limelm.cli.main import _parse
from limelm.cli.recipe_fields import all_fields, recipe_and_model
from limelm.training import load_recipe


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command line, whose recipes, models and cases are known. Folders that it reads must be there."""
    options = _parse(arguments)
    if options.command == "demo":
        load_recipe(RECIPE, all_fields(options)).select(options.models)
    elif options.command == "reproduce":
        for recipe in options.recipes:
            load_recipe(recipe, all_fields(options)).select(options.models)
    elif options.command in ("train", "plan"):
        recipe_and_model(options, all_fields(options))
    elif options.command == "recipes" and options.recipe:
        load_recipe(options.recipe)
    elif options.command == "bench":
        assert {*(options.cases or [])} <= {*COMPARED_CASES} and {*(options.workloads or [])} <= WORKLOADS.keys()
        assert options.shape in (None, *SHAPES)
    return options
