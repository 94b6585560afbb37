"""Training: recipes, a thin Trainer, and the main job."""

from limelm.training.comparison import reproduce
from limelm.training.recipe import Recipe, load_recipe, recipe_names
from limelm.training.run import train_model

__all__ = ["Recipe", "load_recipe", "recipe_names", "reproduce", "train_model"]
