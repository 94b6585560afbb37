"""The synthetic tasks by their names: `arithmetic-N`, expressions of N operands, and `prosqa`."""

import re
from dataclasses import dataclass
from pathlib import Path

from limelm.data.synthetic import arithmetic, prosqa
from limelm.data.synthetic.problem import Problem, TextFormat
from limelm.errors import UserError

SEED = 0  # of the problems; all trainings of a task see the same, whatever their own seed


@dataclass(frozen=True)
class Task:
    """All that a training and its test need.

    Attributes:
        text_format: how problems are written.
        words: all that occur, for `word_tokenizer`.
        chance: the expected share of right answers when guessing among those that can be right.
    """

    text_format: TextFormat
    words: list[str]
    chance: float
    train: list[Problem]
    test: list[Problem]


def operands_of(name: str) -> int | None:
    """The N of `arithmetic-N`; None for `prosqa`.

    Raises:
        UserError: for a name of another form.
    """
    match = re.fullmatch(r"arithmetic-(\d+)", name)
    if name != "prosqa" and (match is None or int(match[1]) < 2):
        raise UserError(f"task {name!r} is unknown; allowed: arithmetic-N with N operands, 2 or more, and prosqa")
    return int(match[1]) if match else None


def task_vocab_size(name: str) -> int:
    """Entries of the tokenizer of a task that is tested on generated problems."""
    words = prosqa.all_words() if operands_of(name) is None else arithmetic.all_words()
    return 2 + len(words)  # padding and end of sequence


def draw_task(name: str, train: int, test: int, test_file: Path | None = None) -> Task:
    """Draw a task's problems; none is on both sides.

    Args:
        train, test: how many of each.
        test_file: published ProsQA problems, of which the first `test` are tested on; the training problems are told
            with their words.

    Raises:
        UserError: for an unknown task, more problems than there are, or a file that is no ProsQA problems.
    """
    operands = operands_of(name)
    if operands is not None:
        if test_file is not None:
            raise UserError(f"task {name}: takes no file of test problems; prosqa does")
        return Task(
            arithmetic.TEXT_FORMAT,
            arithmetic.all_words(),
            1 / arithmetic.MODULUS,
            list(arithmetic.generate(train, operands, SEED)),
            list(arithmetic.generate(test, operands, SEED, "test")),
        )
    if test_file is None:
        lexicon, tested = prosqa.LEXICON, prosqa.generate(test, SEED, "test")
    else:
        published = prosqa.load_problems(test_file)
        if len(published) < test:
            raise UserError(f"{test_file}: has {len(published)} problems, fewer than the {test} to test on")
        lexicon, tested = prosqa.Lexicon.of(published), published[:test]
    trained = prosqa.generate(train, SEED, lexicon=lexicon, exclude=tested)
    return Task(prosqa.TEXT_FORMAT, prosqa.all_words(lexicon), 1 / 2, list(trained), list(tested))
