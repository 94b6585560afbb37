"""Training: recipes, a thin Trainer, and the comparison of a recipe's models."""

from limelm.training.comparison import reproduce
from limelm.training.recipe import Recipe
from limelm.training.recipe_files import load_experiment, load_recipe, load_scale, recipe_names
from limelm.training.run import train_model
from limelm.training.seeds import reproduce_seeds, seed_folders
from limelm.training.summary import made_of, read_summary

__all__ = [
    "Recipe",
    "load_experiment",
    "load_recipe",
    "load_scale",
    "made_of",
    "read_summary",
    "recipe_names",
    "reproduce",
    "reproduce_seeds",
    "seed_folders",
    "train_model",
]
