"""The synthetic tasks by their names: `arithmetic-N`, expressions of N operands, and `prosqa`."""

import re
from dataclasses import dataclass
from pathlib import Path

from limelm.data.synthetic import arithmetic, prosqa
from limelm.data.synthetic.counting import longest_problem
from limelm.data.synthetic.problem import Problem, TextFormat
from limelm.data.synthetic.prosqa_files import load_problems
from limelm.errors import UserError

MOST_PROBLEMS = 1_000_000  # of a split
SEED = 0  # of the problems; all trainings of a task see the same, whatever their own seed


@dataclass(frozen=True)
class Task:
    """A synthetic task: the problems, words and format that a training and its test need.

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
    match = re.fullmatch(r"arithmetic-([1-9][0-9]{0,3})", name)
    if name != "prosqa" and (match is None or int(match[1]) not in arithmetic.OPERANDS):
        allowed = f"arithmetic-N with N operands, {arithmetic.OPERANDS[0]} to {arithmetic.OPERANDS[-1]}, and prosqa"
        raise UserError(f"task {name!r} is unknown; allowed: {allowed}")
    return int(match[1]) if match else None


def check_task(name: str, worked_steps: bool, train: int, test: int, sequence_length: int) -> None:
    """Refuse, before anything is drawn, settings that cannot give the problems.

    Args:
        worked_steps: whether the steps are written.
        train, test: how many problems of each split.
        sequence_length: room for the longest problem in tokens; how long those of prosqa are is known when they are
            drawn.

    Raises:
        UserError: for an unknown task, more problems than there are, or too short sequences.
    """
    operands = operands_of(name)
    for split, count in (("train", train), ("test", test)):
        if not 1 <= count <= MOST_PROBLEMS:
            raise UserError(f"{split}_problems={count} must be from 1 to {MOST_PROBLEMS:,}")
        if operands is not None:
            try:
                arithmetic.check_count(count, operands, split)
            except UserError as error:
                raise UserError(f"{split}_problems of {name}: {error}") from error
    if operands is not None and sequence_length < (longest := longest_problem(operands, worked_steps)):
        raise UserError(
            f"sequence_length={sequence_length} is too short for {name}: its longest problem has {longest} tokens"
        )


def task_vocab_size(name: str) -> int:
    """The vocabulary size of a task that is tested on generated problems."""
    words = prosqa.all_words() if operands_of(name) is None else arithmetic.all_words()
    return 2 + len(words)  # padding and end of sequence


def draw_task(name: str, train: int, test: int, test_file: Path | None = None) -> Task:
    """Draw a task's problems; none is on both sides of the split.

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
        published = load_problems(test_file)
        if len(published) < test:
            raise UserError(f"{test_file}: has {len(published)} problems, fewer than the {test} to test on")
        lexicon, tested = prosqa.Lexicon.of(published), published[:test]
    trained = prosqa.generate(train, SEED, lexicon=lexicon, exclude=tested)
    return Task(prosqa.TEXT_FORMAT, prosqa.all_words(lexicon), 1 / 2, list(trained), list(tested))
