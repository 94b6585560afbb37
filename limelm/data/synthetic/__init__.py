"""Reasoning tasks made from a seed, with the worked steps.

`arithmetic` and `prosqa` offer the same: `generate`, `all_words` and the `TEXT_FORMAT` of their problems.
`draw_task` makes the training and test problems of either by its name.
"""

from limelm.data.synthetic import arithmetic, prosqa
from limelm.data.synthetic.problem import Problem, TextFormat
from limelm.data.synthetic.sampling import SPLITS, split_of
from limelm.data.synthetic.tasks import Task, check_task, draw_task, operands_of, task_vocab_size
from limelm.data.synthetic.tokenizer import word_tokenizer

__all__ = [
    "SPLITS",
    "Problem",
    "Task",
    "TextFormat",
    "arithmetic",
    "check_task",
    "draw_task",
    "operands_of",
    "prosqa",
    "split_of",
    "task_vocab_size",
    "word_tokenizer",
]
