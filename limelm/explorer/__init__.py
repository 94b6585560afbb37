"""The explorer: type a sentence and see what every layer reads of the layers before, and what reading it matters."""

from limelm.explorer.exploration import Exploration, Subject, explore, explore_subjects

__all__ = ["Exploration", "Subject", "explore", "explore_subjects"]
