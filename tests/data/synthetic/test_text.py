import pytest
from transformers import AutoTokenizer

from limelm.data.synthetic.problem import Problem, TextFormat
from limelm.data.synthetic.tasks import draw_task, operands_of, task_vocab_size
from limelm.data.synthetic.tokenizer import word_tokenizer
from limelm.errors import UserError
from tests.data.synthetic.published import PROSQA, needs_prosqa

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


def test_words_signs_and_lines_survive(tmp_path):
    tokenizer = word_tokenizer(["Ada", "is", "a", "b", ".", "?", "\n"])
    text = "Ada is a b. is b a?\nAda is a b."
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 15
    assert tokenizer.decode(ids) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.decode([0, *ids, 1], skip_special_tokens=True) == text
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == ids and again.decode(ids) == text


def test_repeated_words_are_refused():
    with pytest.raises(UserError, match="'is' stands among them twice"):
        word_tokenizer(["is", "Ada", "is"])


@pytest.mark.parametrize("name", ["arithmetic-3", "arithmetic-6", "prosqa"])
def test_tasks_share_no_problem_between_training_and_test(name):
    task = draw_task(name, 300, 50)
    assert (len(task.train), len(task.test)) == (300, 50)
    assert not {problem.key for problem in task.train} & {problem.key for problem in task.test}
    assert task_vocab_size(name) == len(word_tokenizer(task.words))


@pytest.mark.parametrize(
    "name",
    ["arithmetic", "arithmetic-", "arithmetic-1", "arithmetic-33", "arithmetic-03", "arithmetic-²", "Prosqa", ""],
)
def test_unknown_tasks(name):
    with pytest.raises(UserError, match=f"task '{name}' is unknown; allowed: arithmetic-N with N operands, 2 to 32"):
        operands_of(name)


def test_only_prosqa_takes_a_file(tmp_path):
    with pytest.raises(UserError, match="arithmetic-3: takes no file of test problems"):
        draw_task("arithmetic-3", 5, 5, tmp_path / "test.json")
    with pytest.raises(UserError, match=r"test.json: No such file"):
        draw_task("prosqa", 5, 5, tmp_path / "test.json")


@needs_prosqa
def test_published_problems_are_tested_on_and_not_trained_on():
    task = draw_task("prosqa", 100, 300, PROSQA)
    assert len(task.test) == 300
    assert not {problem.key for problem in task.train} & {problem.key for problem in task.test}
    with pytest.raises(UserError, match="has 300 problems, fewer than the 301"):
        draw_task("prosqa", 100, 301, PROSQA)
