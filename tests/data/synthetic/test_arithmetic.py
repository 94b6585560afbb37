import re

import pytest

from limelm.data.synthetic import arithmetic
from limelm.data.synthetic.arithmetic import TEXT_FORMAT, generate
from limelm.data.synthetic.problem import Problem
from limelm.data.synthetic.sampling import split_of
from limelm.data.synthetic.tokenizer import word_tokenizer
from limelm.errors import UserError
from tests.data.synthetic.checks import evaluate, simplifications, verify
from tests.data.synthetic.published import ARITHMETIC, difference, needs_arithmetic, read_chains

GOLDEN = Problem(prompt="8 * 3 * ( 4 - 8 )", steps=("8 * 3 * 7", "2 * 7"), answer="3")


class Residue:
    """A number modulo 11, for Python's own parser to compute with."""

    def __init__(self, value):
        self.value = value % 11

    def __add__(self, other):
        return Residue(self.value + other.value)

    def __sub__(self, other):
        return Residue(self.value - other.value)

    def __mul__(self, other):
        return Residue(self.value * other.value)

    def __truediv__(self, other):
        assert other.value, "division by zero"
        return Residue(self.value * other.value**9)  # Fermat: b^-1 = b^(p - 2)


def python_value(expression):
    return eval(re.sub(r"(\d+)", r"Residue(\1)", expression), {"Residue": Residue}).value


@pytest.mark.parametrize("operands", [2, 3, 4, 5, 6, 7, 12])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_is_right_and_every_step_is_one_operation(operands, split):
    for problem in generate(40, operands, seed=operands, split=split):
        verify(problem)
        assert len(re.findall(r"\d+", problem.prompt)) == operands
        assert len(problem.steps) == operands - 2
        assert all(python_value(line) == int(problem.answer) for line in [problem.prompt, *problem.steps])


def test_a_pure_function_of_its_arguments_and_prefix_stable():
    assert generate(300, 5, seed=3) == generate(500, 5, seed=3)[:300]
    assert generate(300, 5, seed=3) != generate(300, 5, seed=4)


def test_the_first_problem_stays_what_it_is():
    """In every version of Python: results are comparable only on the same problems."""
    assert generate(1, 4, seed=0) == [GOLDEN]


def test_no_problem_is_drawn_twice_and_the_splits_are_disjoint_for_all_seeds():
    train = [generate(3000, 3, seed) for seed in range(3)]
    test = [generate(400, 3, seed, split="test") for seed in range(3)]
    assert all(len({problem.prompt for problem in problems}) == len(problems) for problems in train + test)
    prompts = [{problem.prompt for problems in side for problem in problems} for side in (train, test)]
    assert not prompts[0] & prompts[1]
    assert {split_of(problem) for problems in train for problem in problems} == {"train"}


def test_excluded_problems_are_not_drawn():
    first = generate(100, 4, seed=1)
    others = generate(100, 4, seed=1, exclude=first[:50])
    assert others[:50] == first[50:]
    assert not {problem.prompt for problem in others} & {problem.prompt for problem in first[:50]}


def test_small_expressions_can_be_exhausted():
    everything = 4 * 11 * 11 - 11  # every pair of numbers and operator but divisions by zero
    with pytest.raises(UserError, match=r"count=500 is too large; allowed: up to \d+") as error:
        generate(500, 2, seed=0)
    train = int(re.search(r"up to (\d+)", str(error.value))[1])
    assert len({problem.prompt for problem in generate(train, 2, seed=1)}) == train
    assert len(generate(everything - train, 2, seed=0, split="test")) == everything - train


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operands": 1}, "operands=1 .* 2 to 32"),
        ({"operands": 33}, "operands=33 .* 2 to 32"),
        ({"count": 0}, "count=0 .* 1 or more"),
        ({"seed": -1}, "seed=-1 .* 0 or more"),
        ({"split": "valid"}, "split='valid' is unknown; allowed: train, test"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        generate(**{"count": 1, "operands": 3, "seed": 0, **arguments})


@pytest.mark.parametrize(
    ("expression", "value"),
    [("7", 7), ("8 - 8 / 2", 4), ("2 - 5 - 4", 4), ("6 / 1 / ( 10 / 3 )", 4), ("2 * ( 2 - ( 2 - 3 ) )", 6)],
)
def test_values(expression, value):
    assert evaluate(expression, 11) == value


@pytest.mark.parametrize("expression", ["", "3 +", "( 3", "3 )", "3 4", "+ 3", "11", "3 / ( 4 - 4 )", "3 = 3", "x"])
def test_what_is_no_expression(expression):
    with pytest.raises(UserError, match=re.escape(f"expression {expression!r}: ")):
        evaluate(expression, 11)


@pytest.mark.parametrize(
    ("expression", "following"),
    [
        ("5", []),
        ("3 + 4", ["7"]),
        ("7 - 7 + 9", ["0 + 9"]),
        ("7 + 7 - 9", ["3 - 9", "7 + 9"]),
        ("7 * 7 / 9", ["5 / 9", "7 * 2"]),
        ("7 / 7 * 9", ["1 * 9"]),
        ("1 + 2 * 3", ["1 + 6"]),
        ("( 1 + 2 ) * ( 3 - 4 )", ["3 * ( 3 - 4 )", "( 1 + 2 ) * 10"]),
        ("6 / ( 10 / 3 )", ["6 / 7"]),
    ],
)
def test_single_operations(expression, following):
    assert simplifications(expression, 11) == following


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (Problem("3 + 4 + 1", ("7 + 1",), "9"), "'3 .* is 8"),
        (Problem("3 + 4 + 1", ("7 + 2",), "8"), "'7 [+] 2' is 9"),
        (Problem("3 + 4 + 1", ("6 + 2",), "8"), "no single operation leads"),
        (Problem("3 + 4 + 1", (), "8"), "no single operation leads"),
    ],
)
def test_wrong_problems_are_found(problem, message):
    with pytest.raises(UserError, match=message):
        verify(problem)


@needs_arithmetic
@pytest.mark.parametrize("operators", [3, 4, 5, 6])
def test_published_steps_are_reproduced(operators):
    """Each line of every published chain is what one operation on the line before gives, down to the answer."""
    problems = read_chains(operators)
    assert len(problems) == 20_000
    for problem in problems:
        verify(problem)
    folder = ARITHMETIC / f"ops{operators}"
    direct = (folder / "decoder_train_data.txt").read_text().splitlines()
    written = [TEXT_FORMAT.prompt(p) + TEXT_FORMAT.continuation(p, with_steps=False) for p in problems]
    assert written == direct
    chains = (folder / "chain_train_data.txt").read_text().splitlines()
    assert [TEXT_FORMAT.prompt(problem) + TEXT_FORMAT.continuation(problem) + " " for problem in problems] == chains


@needs_arithmetic
@pytest.mark.parametrize("operators", [3, 4, 5])
def test_published_test_answers_are_reproduced(operators):
    folder = ARITHMETIC / f"ops{operators}"
    lines = (folder / "decoder_test_data.txt").read_text().splitlines()
    assert len(lines) == 2000
    for line in lines:
        prompt, answer = line.split(" = ")
        assert evaluate(prompt, 11) == int(answer)


@needs_arithmetic
@pytest.mark.parametrize("operators", [3, 4, 5, 6])
def test_like_the_published_problems(operators):
    published = [problem for problem in read_chains(operators) if len(problem.steps) == operators - 1]
    generated = generate(6000, operators + 1, seed=0)
    differences = {name: difference(*values) for name, values in figures(published, generated)}
    assert max(differences.values()) < 5, differences


def test_the_comparison_sees_a_difference():
    problems = generate(3000, 4, seed=0)
    shorter = generate(3000, 3, seed=0)
    differences = dict(figures(problems, generate(3000, 4, seed=1)))
    assert max(difference(*values) for values in differences.values()) < 5
    assert difference(*dict(figures(problems, shorter))["tokens"]) > 100
    zeros, others = differences["zeros"]
    assert difference(zeros, [count + (index % 10 == 0) for index, count in enumerate(others)]) > 10


def figures(*samples):
    """What is compared: (name, the values in each sample), one value per problem, so that they are independent."""
    measures = {
        **{operator: lambda p, operator=operator: p.prompt.split().count(operator) for operator in "+-*/("},
        "tokens": lambda p: len(p.prompt.split()),
        "depth": lambda p: depth(p.prompt),
        "first number": lambda p: re.search(r"\d+", p.prompt)[0],
        "last number": lambda p: re.findall(r"\d+", p.prompt)[-1],
        "zeros": lambda p: p.prompt.split().count("0"),
        "answer": lambda p: p.answer,
        "first step": lambda p: first_step(p),
        "zeros in steps": lambda p: sum(step.split().count("0") for step in p.steps),
        "tokens in steps": lambda p: sum(len(step.split()) for step in p.steps),
        "shape": lambda p: re.sub(r"\d+", "n", p.prompt),
    }
    return [(name, [[measure(p) for p in sample] for sample in samples]) for name, measure in measures.items()]


def depth(prompt):
    level = deepest = 0
    for token in prompt.split():
        level += (token == "(") - (token == ")")
        deepest = max(deepest, level)
    return deepest


def first_step(problem):
    """Which of how many operations is carried out first."""
    choices = simplifications(problem.prompt, 11)
    return choices.index((*problem.steps, problem.answer)[0]), len(choices)


def test_the_words_cover_every_problem():
    tokenizer = word_tokenizer(arithmetic.all_words())
    assert len(tokenizer) == 2 + 11 + 4 + 2 + 1
    for problem in generate(200, 6, seed=0):
        prompt, continuation = TEXT_FORMAT.prompt(problem), TEXT_FORMAT.continuation(problem)
        ids = tokenizer(prompt)["input_ids"] + tokenizer(continuation)["input_ids"]
        assert ids == tokenizer(prompt + continuation)["input_ids"]
        assert tokenizer.decode(ids) == prompt + continuation
