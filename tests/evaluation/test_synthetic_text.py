import pytest

from limelm.errors import UserError
from limelm.evaluation.synthetic import Problem, TextFormat, Vocabulary

PROBLEM = Problem("6 / 1 / ( 10 / 3 )", ("6 / 1 / 7", "6 / 7"), "4")
LINE = TextFormat(" = ")
LINES = TextFormat("\n")


def test_prompt_and_continuation():
    assert LINE.prompt(PROBLEM) == "6 / 1 / ( 10 / 3 ) = "
    assert LINE.continuation(PROBLEM) == "6 / 1 / 7 = 6 / 7 = 4"
    assert LINE.continuation(PROBLEM, with_steps=False) == "4"


@pytest.mark.parametrize(
    ("continuation", "correct"),
    [
        ("6 / 1 / 7 = 6 / 7 = 4", True),
        ("4", True),
        (" 9 + 9 = 4 ", True),
        ("6 / 1 / 7 = 6 / 7 = 5", False),
        ("6 / 1 / 7 = 6 / 7", False),
        ("4 = 5", False),
        ("14", False),
        ("4 4", False),
        ("4 = ", False),
        ("", False),
    ],
)
def test_exact_match_of_the_final_answer(continuation, correct):
    assert LINE.is_correct(PROBLEM, continuation) == correct


def test_the_last_line_is_the_answer():
    problem = Problem("Is Ada a b or c?", ("Ada is a d.", "Every d is a b."), "Ada is a b.")
    assert LINES.is_correct(problem, LINES.continuation(problem))
    assert LINES.is_correct(problem, "Ada is a b.\n")
    assert not LINES.is_correct(problem, "Ada is a d.\nEvery d is a b.")
    assert LINES.answer_of("Ada is a d.\nAda is a c.") == "Ada is a c."


def test_words_signs_and_lines_survive():
    vocabulary = Vocabulary(["Ada", "is", "a", "b", ".", "?", "\n"])
    text = "Ada is a b. is b a?\nAda is a b."
    ids = vocabulary.encode(text)
    assert len(ids) == 15
    assert vocabulary.decode(ids) == text
    assert vocabulary.decode([*ids, vocabulary.eos_id, *ids]) == text
    assert vocabulary.decode([vocabulary.pad_id, *ids]) == text


def test_unknown_and_repeated_words_are_refused():
    with pytest.raises(UserError, match="'Eve' is not in the vocabulary; allowed: its 4 tokens"):
        Vocabulary(["Ada", "is"]).encode("Eve is")
    with pytest.raises(UserError, match="'is' stands in it twice"):
        Vocabulary(["is", "Ada", "is"])
