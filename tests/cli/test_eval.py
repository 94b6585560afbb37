import csv
import json
import shutil
import sys

import pytest

from limelm.cli import main
from limelm.evaluation import tasks
from tests.cli.test_cli import fails
from tests.evaluation.benchmarks import write_benchmarks, write_checkpoint

TASKS = "arc_easy,copa,multirc,qnli,induction"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    write_benchmarks(folder / "benchmarks", items=20)
    for name, variant in {"llama_a": "none", "static": "static", "hc": "hc_dynamic"}.items():
        write_checkpoint(folder / name, variant)
    return folder


def evaluate(folder, *names, out="out", tasks=TASKS, data="benchmarks"):
    checkpoints = [str(folder / name) for name in names]
    local = ["--local-data", str(folder / data)] if data else []
    return ["eval", *checkpoints, "--tasks", tasks, "--out", str(folder / out), "--limit", "8", "--shots", "1", *local]


def test_several_models_in_one_report(folder, capsys):
    assert main(evaluate(folder, "llama_a", "static", "hc")) == 0
    out = folder / "out"
    assert f"Report: {out / 'report.html'}" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "One checkpoint of each model" in page and "pairs SuperGLUE&#39;s label 0" in page
    assert "qnli: no training items" in page and "Wikipedia" in page
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert [model["label"] for model in evaluation["models"]] == ["llama_a", "static", "hc"]
    rows = evaluation["scores"]
    assert len(rows) == 3 * (5 + 1)  # acc of each task, and acc_norm of arc_easy
    with (out / "figures" / "scores.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [float(row["accuracy"]) for row in table] == [row["accuracy"] for row in rows]
    assert {row["verdict"] for row in rows if row["model"] == "llama_a"} == {None}
    for row in rows:
        assert row["items"] == 8 and row["chance"] <= row["constant_rate"] <= 1
    markdown = (out / "table.md").read_text().splitlines()
    assert len(markdown) == len(rows) + 2 and "not distinguishable" in "".join(markdown)
    latex = (out / "table.tex").read_text()
    assert r"llama\_a & $" in latex and r"constant answer & " in latex and latex.count(r"\\") == 1 + 3 + 2
    assert (out / "figures" / "accuracy.png").exists() and (out / "figures" / "accuracy.svg").exists()
    assert len(list((out / "items").rglob("*.json"))) == 15


def test_a_second_run_adds_to_the_first(folder, capsys, monkeypatch):
    from limelm.evaluation import harness

    assert main(evaluate(folder, "static", tasks="copa", out="grows")) == 0
    ran, run = [], harness.run_task
    monkeypatch.setattr(harness, "run_task", lambda lm, task, *rest: (ran.append(task.name), run(lm, task, *rest))[1])
    assert main(evaluate(folder, "static", tasks="copa,piqa", out="grows")) == 0
    assert ran == ["piqa"]
    first = json.loads((folder / "grows" / "evaluation.json").read_text())
    assert main(evaluate(folder, "static", tasks="copa,piqa", out="grows")) == 0
    assert ran == ["piqa"] and json.loads((folder / "grows" / "evaluation.json").read_text()) == first


def test_interrupted_it_keeps_the_tasks_that_are_done(folder, capsys, monkeypatch):
    from limelm.evaluation import harness

    run = harness.run_task

    def interrupted(lm, task, *rest):
        if task.name == "rte":
            raise KeyboardInterrupt
        return run(lm, task, *rest)

    monkeypatch.setattr(harness, "run_task", interrupted)
    line = fails(capsys, *evaluate(folder, "static", tasks="copa,rte", out="stopped"), code=130)
    assert "the same command goes on from there" in line
    assert [path.name for path in (folder / "stopped" / "items").rglob("*.json")] == ["copa-1-shot.json"]
    monkeypatch.setattr(harness, "run_task", run)
    assert main(evaluate(folder, "static", tasks="copa,rte", out="stopped")) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "arc_esy"}, "--tasks: no task or suite 'arc_esy' which --local-data can serve; nearest: arc_easy"),
        ({"tasks": "papr"}, "nearest: paper"),
        ({"data": "nowhere"}, "nowhere is not a folder"),
        ({"tasks": "copa", "data": "lacking"}, "copa needs"),
        ({"tasks": ","}, "names nothing"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder, capsys, changes, message):
    (folder / "lacking").mkdir(exist_ok=True)
    line = fails(capsys, *evaluate(folder, "static", **{"out": "bad", **changes}))
    assert message in line and not (folder / "bad").exists()


def test_more_bad_input(folder, capsys):
    start = evaluate(folder, "static", out="bad", tasks="copa")
    assert "only 20 items to take examples from" in fails(capsys, *start, "--shots", "20")
    assert "is not an integer of at least 0" in fails(capsys, *start, "--shots", "-1")
    assert "--device: 'gpu'" in fails(capsys, *start, "--device", "gpu")
    assert "named twice" in fails(capsys, *evaluate(folder, "static", "static", out="bad"))
    assert "not a checkpoint" in fails(capsys, *evaluate(folder, "benchmarks", out="bad"))
    assert "already holds other files" in fails(capsys, *evaluate(folder, "static", out="benchmarks"))
    assert not (folder / "bad").exists()


def test_without_the_harness_its_extra_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    line = fails(capsys, *evaluate(folder, "static", out="bad"))
    assert "lm_eval is not installed; install it with: pip install 'limelm[eval]'" in line


def test_without_a_network_local_data_are_named(folder, capsys, monkeypatch):
    some = tasks._local_task_manager()  # to list all of the harness's takes ten seconds
    monkeypatch.setattr(tasks, "_task_manager", lambda **_: some)
    line = fails(capsys, *evaluate(folder, "static", out="bad", tasks="arc_easy", data=None))
    assert "the data of arc_easy cannot be fetched" in line and "--local-data" in line
    line = fails(capsys, *evaluate(folder, "static", out="bad", tasks="hellaswagg", data=None))
    assert "no task or suite 'hellaswagg' in the harness; nearest: hellaswag" in line
    line = fails(capsys, *evaluate(folder, "static", out="bad", tasks="paper-v2", data=None))
    assert "cannot be fetched" in line and not (folder / "bad").exists()


def test_generated_tasks_need_neither(folder):
    assert main(evaluate(folder, "static", out="generated", tasks="key_value_retrieval,induction", data=None)) == 0
    rows = json.loads((folder / "generated" / "evaluation.json").read_text())["scores"]
    assert [row["chance"] for row in rows] == [1 / 8, 1 / 8]


def test_too_short_a_context_is_told_in_one_line_each(folder, capsys):
    write_checkpoint(folder / "short", "none", max_position_embeddings=6)
    assert main(evaluate(folder, "short", "static", out="short-out", tasks="multirc,rte")) == 0
    out = capsys.readouterr().out
    assert "short: no multirc: an answer has" in out
    page = (folder / "short-out" / "report.html").read_text()
    assert "multirc: short: an answer has" in page and "rte (short: 8)" in page
    line = fails(capsys, *evaluate(folder, "short", out="nothing", tasks="multirc"), code=2)
    assert "no task could be scored" in line
    shutil.rmtree(folder / "short")
