"""Recipes of experiments: which models, on which data, trained how; the files lie beside this one."""

from limelm.extras import require_extra

require_extra("lab", "limelm.recipes")

from limelm.recipes.files import load_recipe, recipe_as_toml, recipe_names, the_model
from limelm.recipes.recipe import Recipe

__all__ = ["Recipe", "load_recipe", "recipe_as_toml", "recipe_names", "the_model"]
