"""Training: recipes, a thin Trainer, and the comparison of a recipe's models."""

from limelm.extras import require_extra

require_extra("lab", "limelm.training")

from limelm.training.comparison import reproduce, reproduce_seeds, seed_folders
from limelm.training.recipe import Recipe
from limelm.training.recipe_files import load_experiment, load_recipe, load_scale, recipe_names
from limelm.training.run import train_model
from limelm.training.summary import read_summary, results_fingerprint

__all__ = [
    "Recipe",
    "load_experiment",
    "load_recipe",
    "load_scale",
    "read_summary",
    "recipe_names",
    "reproduce",
    "reproduce_seeds",
    "results_fingerprint",
    "seed_folders",
    "train_model",
]
