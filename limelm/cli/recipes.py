"""`limelm recipes`: which recipes there are, and what one says."""

import argparse

from limelm.cli.options import add_shared
from limelm.cli.output import Output

HELP = "list the recipes, or print one as a file from which to start your own"
NEEDS = "lab"
KEYS = ("recipes",)
DESCRIPTION = """\
List the recipes that come with limelm, or print one: RECIPE with all of its values, also defaults and those of the
recipe that it extends, as a TOML file that `limelm reproduce` and `limelm train` take.

A recipe of your own says only what is different from the one that it extends:

    extends = "tiny"
    description = "tiny, twice as wide, with two seeds"
    seeds = 2
    [architecture]
    hidden_size = 256
    [training]
    steps = 200

`extends` takes the name of a recipe, or the path of another .toml file. Tables are merged field by field, with two
exceptions. Data of another kind (task instead of preset) replace [data]. And base = "" (a pretrained model, named by
--from) replaces models, data and architecture.

[models.NAME] adds a model. Its fields are label, model_type (llama, lime, hyper_connection or another of
docs/models.md), routing (static, dynamic, kv), routing_top_p, or those of another model_type.
compare = ["llama", "NAME"] says which models `limelm reproduce` trains.

`limelm recipes tiny` shows the fields of recipes for text. The recipe arithmetic-3 has those for tasks, attach those
for pretrained models. `limelm reproduce FILE.toml --out run` trains your recipe. To train on your own text, prepare it
(limelm data prepare corpus/ --out tokens) and add --data tokens. The models then take the vocabulary of that folder.
"""

EPILOG = """\
examples:
  limelm recipes
  limelm recipes tiny > my-recipe.toml
  limelm recipes my-recipe.toml                  your own, with all values
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "RECIPE", nargs="?")


def run(options: argparse.Namespace) -> Output:
    """List the recipes, or show one."""
    from limelm.recipes.files import load_recipe, recipe_as_toml, recipe_names

    if options.recipe is not None:
        recipe = load_recipe(options.recipe)
        for subject in recipe.subjects.values():
            subject.to_plan(recipe.data.vocab_size)  # refuses values that no model can have
        return Output(recipe_as_toml(recipe).rstrip(), {"recipes": [recipe.to_dict()]})
    recipes = [load_recipe(name) for name in recipe_names()]
    width = max(len(recipe.name) for recipe in recipes) + 2
    lines = [f"{recipe.name:<{width}}{recipe.description}" for recipe in recipes]
    facts = [
        {"name": recipe.name, "description": recipe.description, "models": list(recipe.models)} for recipe in recipes
    ]
    return Output("\n".join(lines), {"recipes": facts})
