import hashlib
import json
import os

import pytest

from limelm.data.problems import ProblemDataset, ProblemFolder, load_problem_tokenizer, prepare_problems, read_problems
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
    with pytest.raises(UserError, match=r"problems.json: no value for worked_steps, train"):
        ProblemFolder.load(folder)
    with pytest.raises(UserError, match=r"not a folder of reasoning problems \(no problems.json\)"):
        ProblemFolder.load(tmp_path)


def rewrite(folder, name, change):
    """Change one of a folder's files, and make the hash in problems.json right again."""
    path = folder / name
    path.write_text(change(path.read_text()))
    made = json.loads((folder / "problems.json").read_text())
    tokenizer = hashlib.sha256((folder / "tokenizer" / "tokenizer.json").read_bytes()).hexdigest()
    digest = hashlib.sha256(f"{tokenizer} {made['worked_steps']}".encode())
    for split in ("train", "test"):
        digest.update((folder / f"{split}.jsonl").read_bytes())
    (folder / "problems.json").write_text(json.dumps({**made, "content_sha256": digest.hexdigest()}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task", 3, "task=3 must be a string"),
        ("worked_steps", 1, "worked_steps=1 must be true or false"),
        ("train", -5, "train=-5 must be at least 1"),
        ("train", 5.0, "train=5.0 must be an integer"),
        ("delimiter", "", "delimiter='' must be a text"),
        ("delimiter", [], r"delimiter=\[\] must be a string"),
        ("chance", 2, "chance=2 must be at most 1"),
        ("chance", float("nan"), "chance=nan must be a finite number"),
        ("tested_on", "\x1b[2J", "tested_on=.* must be a text without control characters"),
        ("extra", 1, "unknown field 'extra'"),
    ],
)
def test_a_stranger_s_description_is_read_strictly(tmp_path, field, value, message):
    folder = tmp_path / "data"
    prepare_problems(folder, "arithmetic-3", worked_steps=True, train=5, test=5)
    rewrite(folder, "problems.json", lambda text: json.dumps({**json.loads(text), field: value}))
    with pytest.raises(UserError, match=rf"problems\.json: {message}"):
        ProblemFolder.load(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("3", "line 2: must be a table of fields"),
        ('{"prompt": "1 + 1", "steps": []}', "line 2: no value for answer"),
        ('{"prompt": "1 + 1", "steps": "2", "answer": "2"}', "line 2: steps='2' must be a list"),
        ('{"prompt": "1 + 1", "steps": [2], "answer": "2"}', r"line 2: steps\[0\]=2 must be a string"),
        ('{"prompt": "1 + 1", "steps": [], "answer": "2", "x": 1}', "line 2: unknown field 'x'"),
    ],
)
def test_a_stranger_s_problems_are_read_strictly(tmp_path, line, message):
    folder = tmp_path / "data"
    prepare_problems(folder, "arithmetic-3", worked_steps=True, train=5, test=5)
    rewrite(folder, "test.jsonl", lambda text: "\n".join([text.splitlines()[0], line]) + "\n")
    with pytest.raises(UserError, match=rf"test\.jsonl {message}"):
        read_problems(folder, "test")


def test_a_stranger_s_problems_that_cannot_be_encoded_are_refused(tmp_path):
    folder = tmp_path / "data"
    prepare_problems(folder, "arithmetic-3", worked_steps=True, train=5, test=5)
    rewrite(folder, "test.jsonl", lambda text: text.replace('"answer": "', '"answer": "unheard '))
    with pytest.raises(UserError, match="data, test: a problem has words that its tokenizer does not know"):
        ProblemDataset(folder, "test", 30)
    rewrite(folder, "test.jsonl", lambda text: text.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"problems\.json: test=5 must be the problems of test\.jsonl, 1"):
        ProblemDataset(folder, "test", 30)
    (folder / "test.jsonl").unlink()
    os.mkfifo(folder / "test.jsonl")
    with pytest.raises(UserError, match=r"test\.jsonl: not a file"):
        ProblemFolder.load(folder)


@pytest.mark.parametrize("task", ["arithmetic-4", "prosqa"])
def test_sequences_too_short_for_a_problem_are_refused_before_anything_is_written(tmp_path, task):
    with pytest.raises(UserError, match=rf"data.sequence_length=12 is too short for {task}: its longest problem has"):
        prepare_problems(tmp_path / "data", task, worked_steps=True, train=5, test=5, sequence_length=12)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_way_is_not_written_through(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / ".data.partial").symlink_to("precious")
    prepare_problems(tmp_path / "data", "arithmetic-3", worked_steps=True, train=5, test=5)
    assert list((tmp_path / "precious").iterdir()) == []
    assert ProblemFolder.load(tmp_path / "data").train == 5 and not (tmp_path / "data").is_symlink()


def test_a_kill_while_writing_leaves_nothing_half_done(tmp_path):
    partial = tmp_path / ".data.partial"
    partial.mkdir()
    (partial / "train.jsonl").write_text("half")
    prepare_problems(tmp_path / "data", "arithmetic-3", worked_steps=True, train=5, test=5)
    assert not partial.exists() and ProblemFolder.load(tmp_path / "data").train == 5
