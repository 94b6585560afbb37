import json

import pytest

from limelm.data import ProblemDataset, ProblemFolder, load_problem_tokenizer, prepare_problems, read_problems
from limelm.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "data"
    prepare_problems(path, "arithmetic-4", worked_steps=True, train=30, test=10)
    return path


def test_what_is_written_is_what_was_drawn(folder):
    made = ProblemFolder.load(folder)
    assert (made.task, made.worked_steps, made.train, made.test, made.delimiter) == (
        "arithmetic-4",
        True,
        30,
        10,
        " = ",
    )
    assert made.chance == 1 / 11
    problems = read_problems(folder, "test")
    assert len(problems) == 10 and all(len(problem.steps) == 2 for problem in problems)
    assert not {p.prompt for p in problems} & {p.prompt for p in read_problems(folder, "train")}


def test_an_item_is_the_problem_with_labels_at_what_is_to_be_written(folder):
    dataset, tokenizer = ProblemDataset(folder, "train", 30), load_problem_tokenizer(folder)
    assert len(dataset) == 30
    for problem, item in zip(read_problems(folder, "train"), dataset, strict=True):
        text = tokenizer.decode(item["input_ids"], skip_special_tokens=True)
        assert text == " = ".join([problem.prompt, *problem.steps, problem.answer])
        kept = item["labels"] != -100
        assert (item["labels"][kept] == item["input_ids"][kept]).all()
        learned = tokenizer.decode(item["labels"][kept])
        assert learned == " = ".join([*problem.steps, problem.answer]) + " <eos>"
        assert (item["input_ids"][kept.nonzero().max() + 1 :] == tokenizer.pad_token_id).all()


def test_without_the_steps(folder, tmp_path):
    made = prepare_problems(tmp_path / "data", "arithmetic-4", worked_steps=False, train=30, test=10)
    assert made.content_sha256 != ProblemFolder.load(folder).content_sha256
    labels = ProblemDataset(tmp_path / "data", "test", 30).labels
    assert ((labels != -100).sum(dim=1) == 2).all()  # the answer and EOS


def test_too_short_for_a_problem(folder):
    with pytest.raises(UserError, match=r"data.sequence_length=20 is too short for arithmetic-4: .* 2\d tokens"):
        ProblemDataset(folder, "train", 20)


def test_changed_or_broken_problems_are_refused(tmp_path):
    folder = tmp_path / "data"
    prepare_problems(folder, "arithmetic-3", worked_steps=True, train=5, test=5)
    (folder / "test.jsonl").write_text((folder / "train.jsonl").read_text())
    with pytest.raises(UserError, match="its problems or tokenizer have changed"):
        ProblemFolder.load(folder)
    (folder / "problems.json").write_text(json.dumps({"task": "arithmetic-3"}))
    with pytest.raises(UserError, match=r"problems.json: broken"):
        ProblemFolder.load(folder)
    with pytest.raises(UserError, match=r"problems.json: No such file"):
        ProblemFolder.load(tmp_path)


def test_a_kill_while_writing_leaves_nothing_half_done(tmp_path):
    partial = tmp_path / ".data.partial"
    partial.mkdir()
    (partial / "train.jsonl").write_text("half")
    prepare_problems(tmp_path / "data", "arithmetic-3", worked_steps=True, train=5, test=5)
    assert not partial.exists() and ProblemFolder.load(tmp_path / "data").train == 5
