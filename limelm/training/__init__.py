"""Training: recipes, a thin Trainer, and the comparison of a recipe's models."""

from limelm.extras import require_extra

require_extra("lab", "limelm.training")

from limelm.recipes import Recipe, load_recipe, recipe_as_toml, recipe_names, the_model
from limelm.training.comparison import reproduce
from limelm.training.run import train_model
from limelm.training.summary import read_summary

__all__ = [
    "Recipe",
    "load_recipe",
    "read_summary",
    "recipe_as_toml",
    "recipe_names",
    "reproduce",
    "the_model",
    "train_model",
]
