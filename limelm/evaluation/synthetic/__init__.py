"""Reasoning tasks made from a seed, with the worked steps and an answer that is checked by a second way.

`arithmetic` and `prosqa` offer the same: `generate`, `verify`, `vocabulary` and the `TEXT_FORMAT` of their problems.
"""

from limelm.evaluation.synthetic import arithmetic, prosqa
from limelm.evaluation.synthetic.problem import Problem, TextFormat
from limelm.evaluation.synthetic.sampling import SPLITS, split_of
from limelm.evaluation.synthetic.vocabulary import Vocabulary

__all__ = ["SPLITS", "Problem", "TextFormat", "Vocabulary", "arithmetic", "prosqa", "split_of"]
