"""What `limelm eval` refuses, it refuses before any model is read, and what is known at once, before any text is."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from limelm.errors import UserError
from limelm.evaluation import domains, run
from limelm.evaluation.domains import TextRequest
from limelm.evaluation.harness import TaskSettings
from limelm.evaluation.statistics import TOO_FEW
from limelm.evaluation.suites import expand
from tests.evaluation.benchmarks import write_benchmarks, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("before")
    write_benchmarks(folder / "benchmarks", items=12)
    write_checkpoint(folder / "static", "static", max_position_embeddings=64)
    shutil.copytree(folder / "static", folder / "short")
    config = json.loads((folder / "short" / "config.json").read_text())
    (folder / "short" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 24}))
    shutil.copytree(folder / "static", folder / "no tokenizer", ignore=shutil.ignore_patterns("tokenizer*"))
    shutil.copytree(folder / "static", folder / "no config", ignore=shutil.ignore_patterns("config.json"))
    (folder / "text.txt").write_text("some words to read " * 20)
    (folder / "empty.txt").write_text("")
    return folder


@pytest.fixture
def no_model(monkeypatch):
    def read(checkpoint, *_):
        raise AssertionError(f"{checkpoint} was read")

    monkeypatch.setattr(run, "load_for_evaluation", read)


@pytest.fixture
def no_text(monkeypatch):
    def read(path, *_):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(domains, "read_texts", read)


def evaluate(folder, names=("static",), tasks="induction", text="text.txt", data="benchmarks", shots=None, **reading):
    request = TextRequest({"x": folder / text}, **reading) if text else None
    wanted = expand(tasks.split(","), shots) if tasks else []
    checkpoints = [str(folder / name) for name in names]
    out = folder / "out"
    try:
        return run.evaluate(checkpoints, list(names), wanted, folder / data, request, TaskSettings(), out)
    finally:
        assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "induction,arc_esy"}, "no task or suite 'arc_esy' which --local-data can serve; nearest: arc_easy"),
        ({"tasks": "copa", "data": "nowhere"}, "--local-data: .*nowhere is not a folder"),
        ({"tasks": "copa", "shots": 99}, "--shots 99: copa has only"),
        ({"window": 65}, "--window: 65 tokens, but the context of .*static holds 64"),
        ({"names": ("static", "short"), "window": 25}, "--window: 25 tokens, but the context of .*short holds 24"),
        ({"window": 8, "stride": 8}, "--stride: 8 must be from 1 to 7"),
        ({"text": "nowhere"}, "nowhere: no such file or folder"),
        ({"names": ("static", "no tokenizer")}, "no tokenizer: no readable tokenizer"),
        ({"names": ("static", "no config")}, "no config: not a checkpoint"),
        ({"names": ("static", "nowhere")}, "nowhere: no such folder"),
    ],
)
def test_before_text_is_read(folder, no_model, no_text, options, message):
    with pytest.raises(UserError, match=message):
        evaluate(folder, **options)


def test_text_that_is_none(folder, no_model):
    with pytest.raises(UserError, match=r"empty\.txt: no text to score"):
        evaluate(folder, text="empty.txt")


@pytest.mark.parametrize("module", ["lm_eval", "datasets"])
def test_extras_come_first(folder, no_model, no_text, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(run, "find_checkpoints", lambda checkpoints: pytest.fail("a checkpoint was looked for"))
    with pytest.raises(
        UserError, match="is not installed; install it with: pip install 'limelm\\[eval\\]' \\(in a clone"
    ):
        evaluate(folder)


def test_a_lora_without_peft(folder, no_model, no_text, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    shutil.copytree(folder / "static", folder / "lora", dirs_exist_ok=True)
    description = {"base_model_name_or_path": str(Path(folder / "static")), "peft_type": "LORA"}
    (folder / "lora" / "adapter_config.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="peft is not installed"):
        evaluate(folder, names=("static", "lora"))


@pytest.mark.parametrize(
    ("models", "said"), [(1, None), (2, "1 difference was tested"), (3, "2 differences were tested")]
)
def test_the_differences_that_were_tested_are_counted(models, said):
    rows = [{"verdict": None}, *[{"verdict": "not distinguishable"}] * (models - 1), {"verdict": TOO_FEW}]
    row = {"domain": "x", "documents": 30, "low": 0.0}
    evaluation = run.Evaluation(perplexity=[row | each for each in rows])
    cautions = " ".join(run._cautions(evaluation, []))
    assert "tested" not in cautions if said is None else said in cautions
    assert "With fewer than 10 items, passages or documents no verdict is given" in cautions
