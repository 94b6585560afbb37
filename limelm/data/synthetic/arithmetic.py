"""Arithmetic expressions modulo a prime, with the worked steps.

    6 / 1 / ( 10 / 3 ) = 6 / 1 / 7 = 6 / 7 = 4

The task is that of Feng et al. 2023 (arXiv 2305.15408, `CoT_benchmark`), from which the LIMe paper's Arithmetic
Expression Task (arXiv 2502.09245v2) descends. Sizes are counted in another way there: a set of size k has k
*operators*, so k + 1 operands; its test problems all have k, its training problems 1 to k, in about these proportions.

How those files were made, as far as they show it: an expression grows backwards from its answer, which is uniform. One
of its numbers, each equally likely, becomes an operation with that value: operator and left operand are uniform, and so
is the right operand among those that fit; where none fits (0 = 3 / b, 5 = 0 * b) operator and left operand are drawn
again. So 0 is rarer than other numbers, and "/" and "*" are rarer than "+" and "-". Nothing is divided by zero.
Brackets stand only where they are needed. The worked steps are these expansions in reverse. Their order is random and
does not follow from the expression: the files have the same expression with different orders of steps.
"""

import random
from collections.abc import Iterable, Sequence

from limelm.data.synthetic.counting import count_expressions
from limelm.data.synthetic.problem import Problem, TextFormat
from limelm.data.synthetic.sampling import check_share, draw_distinct
from limelm.errors import UserError

MODULUS = 11  # of the published data
OPERANDS = range(2, 33)
TEXT_FORMAT = TextFormat(delimiter=" = ")
OPERATORS = ("+", "-", "*", "/")
# An operator's neighbors that would bind what it gives more tightly than it does itself. Where "+" stands on the left,
# "a + (b - c)" is the same as "a + b - c" and needs no brackets; where "/" does, everything needs them.
_LEFT_NEEDS_BRACKETS = {"+": {"-", "*", "/"}, "-": {"-", "*", "/"}, "*": {"/"}, "/": {"/"}}
_RIGHT_NEEDS_BRACKETS = {"+": {"*", "/"}, "-": {"*", "/"}, "*": set(), "/": set()}


def generate(
    count: int,
    operands: int,
    seed: int,
    split: str = "train",
    exclude: Iterable[Problem] = (),
) -> list[Problem]:
    """Generate different expressions with their steps, as a pure function of the arguments.

    The first k of a larger count are the same. No expression is in both splits, whatever the seeds.

    Args:
        operands: numbers in each expression. Steps have fewer: to keep the test expressions out of the training text
            altogether, do not train on longer ones.
        split: "train" or "test".
        exclude: problems that are not to be drawn.

    Raises:
        UserError: for a value out of range, or for a count larger than the number of different expressions.
    """
    check_count(count, operands, split)
    return draw_distinct(lambda rng: _draw(rng, operands), count, seed, split, exclude)


def check_count(count: int, operands: int, split: str = "train") -> None:
    """Refuse a number of problems that do not exist, before any is drawn.

    Raises:
        UserError: for operands out of range, or many more problems than the split has.
    """
    if operands not in OPERANDS:
        raise UserError(f"operands={operands} is not allowed; allowed: {OPERANDS[0]} to {OPERANDS[-1]}")
    check_share(count, count_expressions(operands, MODULUS), split)


def all_words() -> list[str]:
    """The vocabulary of the problems: the numbers 0 to 10, the four operators, brackets and "="."""
    return [*(str(number) for number in range(MODULUS)), *OPERATORS, "(", ")", "="]


def _draw(rng: random.Random, operands: int) -> Problem:
    lines = [[str(rng.randrange(MODULUS))]]
    for _ in range(operands - 1):
        tokens = lines[-1]
        position = rng.choice(number_positions(tokens))
        lines.append(expand(tokens, position, *_operation(rng, int(tokens[position]))))
    answer, *steps, prompt = (" ".join(tokens) for tokens in lines)
    return Problem(prompt, tuple(reversed(steps)), answer)


def _operation(rng: random.Random, value: int) -> tuple[int, str, int]:
    """A random `left operator right` that gives `value`."""
    while True:
        operator = rng.choice(OPERATORS)
        left = rng.randrange(MODULUS)
        if operator == "+":
            return left, operator, (value - left) % MODULUS
        if operator == "-":
            return left, operator, (left - value) % MODULUS
        if left == value == 0:
            return left, operator, rng.randrange(1 if operator == "/" else 0, MODULUS)
        if operator == "*" and left != 0:
            return left, operator, value * pow(left, -1, MODULUS) % MODULUS
        if operator == "/" and left != 0 and value != 0:
            return left, operator, left * pow(value, -1, MODULUS) % MODULUS


def number_positions(tokens: Sequence[str]) -> list[int]:
    """Where the numbers stand."""
    return [position for position, token in enumerate(tokens) if token.isdecimal()]


def expand(tokens: Sequence[str], position: int, left: int, operator: str, right: int) -> list[str]:
    """The expression with the number at `position` written as `left operator right`, in brackets if they are needed."""
    pair = [str(left), operator, str(right)]
    if needs_brackets(tokens, position, position + 1, operator):
        pair = ["(", *pair, ")"]
    return [*tokens[:position], *pair, *tokens[position + 1 :]]


def needs_brackets(tokens: Sequence[str], start: int, end: int, operator: str) -> bool:
    """Whether an operation from `start` to `end` must stand in brackets there."""
    left = tokens[start - 1] if start > 0 else ""
    right = tokens[end] if end < len(tokens) else ""
    return left in _LEFT_NEEDS_BRACKETS[operator] or right in _RIGHT_NEEDS_BRACKETS[operator]
