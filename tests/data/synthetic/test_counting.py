"""What is known of problems before they are drawn: how many there are, and how long they get."""

import pytest

from limelm.data.synthetic.arithmetic import OPERATORS, TEXT_FORMAT, all_words, expand, generate, number_positions
from limelm.data.synthetic.counting import count_expressions, longest_expression, longest_problem
from limelm.data.synthetic.tasks import check_task
from limelm.data.synthetic.tokenizer import word_tokenizer
from limelm.errors import UserError
from tests.data.synthetic.checks import evaluate


def all_expressions(operands, modulus):
    """Every expression that the generator's expansions lead to, by following all of them."""
    found = {str(value) for value in range(modulus)}
    for _ in range(operands - 1):
        found = {
            " ".join(expand(tokens, position, left, operator, right))
            for tokens in (expression.split() for expression in found)
            for position in number_positions(tokens)
            for operator in OPERATORS
            for left in range(modulus)
            for right in range(modulus)
            if not (operator == "/" and right == 0)
            and evaluate(f"{left} {operator} {right}", modulus) == int(tokens[position])
        }
    return found


@pytest.mark.parametrize(("operands", "modulus"), [(1, 5), (2, 11), (3, 3), (3, 5), (4, 2), (4, 3)])
def test_expressions_are_counted_as_they_are_listed(operands, modulus):
    found = all_expressions(operands, modulus)
    assert count_expressions(operands, modulus) == len(found)
    assert longest_expression(operands) == max(len(expression.split()) for expression in found)


@pytest.mark.parametrize("worked_steps", [True, False])
@pytest.mark.parametrize("operands", [2, 3, 4])
def test_the_longest_problem_has_as_many_tokens_as_the_tokenizer_says(operands, worked_steps):
    tokenizer = word_tokenizer(all_words())
    longest = 0
    for problem in generate(300 if operands == 2 else 4000, operands, seed=0):
        text = TEXT_FORMAT.prompt(problem) + TEXT_FORMAT.continuation(problem, worked_steps)
        longest = max(longest, len(tokenizer(text)["input_ids"]) + 1)
    assert longest == longest_problem(operands, worked_steps)


@pytest.mark.parametrize("count", [100_000_000, 40_000])
def test_more_problems_than_there_are_are_refused_before_any_is_drawn(count, monkeypatch):
    monkeypatch.setattr("limelm.data.synthetic.arithmetic._draw", lambda *_: pytest.fail("one was drawn"))
    with pytest.raises(UserError, match=rf"count={count} is too large; .* 35365 different problems of this size"):
        generate(count, 3, seed=0)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (("arithmetic-99", True, 10, 10, 10_000), "task 'arithmetic-99' is unknown"),
        (("arithmetic-3", True, 100_000_000, 10, 14), "train_problems=100000000 must be from 1 to 1,000,000"),
        (("arithmetic-3", True, 10, 0, 14), "test_problems=0 must be from 1 to"),
        (("arithmetic-3", True, 40_000, 10, 14), "train_problems of arithmetic-3: count=40000 is too large"),
        (("arithmetic-3", True, 10, 6_000, 14), "test_problems of arithmetic-3: count=6000 is too large"),
        (("arithmetic-3", True, 10, 10, 13), "sequence_length=13 is too short for arithmetic-3: .* 14 tokens"),
        (("arithmetic-3", False, 10, 10, 9), "sequence_length=9 is too short for arithmetic-3: .* 10 tokens"),
        (("prosqa", True, 1_000_001, 10, 448), "train_problems=1000001 must be"),
    ],
)
def test_what_cannot_be_drawn_is_known_at_once(task, message):
    with pytest.raises(UserError, match=message):
        check_task(*task)


@pytest.mark.parametrize(
    "task", [("arithmetic-3", True, 20_000, 2_000, 14), ("arithmetic-3", False, 5, 5, 10), ("prosqa", True, 5, 5, 2)]
)
def test_what_can_be_drawn_is_let_through(task):
    check_task(*task)
