"""Training: recipes, a thin Trainer, and the main job."""

from limelm.training.comparison import reproduce
from limelm.training.recipe import Recipe
from limelm.training.recipe_files import load_experiment, load_recipe, load_scale, recipe_names
from limelm.training.run import train_model

__all__ = [
    "Recipe",
    "load_experiment",
    "load_recipe",
    "load_scale",
    "recipe_names",
    "reproduce",
    "train_model",
]
