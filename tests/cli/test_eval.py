import csv
import json
import shutil
import sys

import pytest

from limelm.cli import main
from limelm.evaluation import tasks
from limelm.evaluation.generated import WORDS
from tests.cli.test_cli import fails
from tests.evaluation.benchmarks import write_benchmarks, write_checkpoint

TASKS = "arc_easy,copa,multirc,qnli,induction"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    write_benchmarks(folder / "benchmarks", items=20)
    for name, variant in {"llama_a": "none", "static": "static", "hc": "hc_dynamic"}.items():
        write_checkpoint(folder / name, variant)
    texts = [" ".join(WORDS[i : i + 4 + 3 * i]) for i in range(12)]
    (folder / "words.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "one.txt").write_text(texts[-1])
    return folder


def evaluate(folder, *names, out="out", tasks=TASKS, data="benchmarks"):
    checkpoints = [str(folder / name) for name in names]
    local = ["--local-data", str(folder / data)] if data else []
    return ["eval", *checkpoints, "--tasks", tasks, "--out", str(folder / out), "--limit", "8", "--shots", "1", *local]


def perplexity(folder, *names, text, out):
    checkpoints = [str(folder / name) for name in names]
    domains = [argument for domain in text for argument in ("--domain", domain)]
    return ["eval", *checkpoints, *domains, "--window", "32", "--out", str(folder / out)]


def test_several_models_in_one_report(folder, capsys):
    assert main(evaluate(folder, "llama_a", "static", "hc")) == 0
    out = folder / "out"
    printed = capsys.readouterr().out
    assert f"Report: {out / 'report.html'}" in printed
    table = printed.splitlines()[: 1 + 3 * (5 + 1)]
    assert table[0].startswith("task") and "induction, 1-shot" in printed and "average of 5 tasks" in printed
    assert max(map(len, table)) <= 80
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
    assert len(markdown) == len(rows) + 3 + 2 and "no verdict: fewer than 10" in "".join(markdown)
    averages = evaluation["averages"]
    assert [row["model"] for row in averages] == ["llama_a", "static", "hc"]
    shown = [row for row in rows if row["model"] == "hc" and (row["task"], row["metric"]) != ("arc_easy", "acc")]
    assert averages[2]["average"] == pytest.approx(sum(row["accuracy"] for row in shown) / 5)
    assert markdown[-1].startswith("| average |") and f"| {100 * averages[2]['average']:.1f} |" in markdown[-1]
    assert "Average over 5 tasks" in page and "Bits per byte" not in page
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
    assert "-1 must be at least 0" in fails(capsys, *start, "--shots", "-1")
    assert "--device: 'gpu'" in fails(capsys, *start, "--device", "gpu")
    assert "named twice" in fails(capsys, *evaluate(folder, "static", "static", out="bad"))
    assert "not a checkpoint" in fails(capsys, *evaluate(folder, "benchmarks", out="bad"))
    assert "already holds other files" in fails(capsys, *evaluate(folder, "static", out="benchmarks"))
    assert not (folder / "bad").exists()


def test_text_alone_needs_no_tasks(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    text = [str(folder / "words.jsonl"), f"held-out={folder / 'tokens'}"]
    command = [*perplexity(folder, "llama_a", "hc", text=text, out="text"), "--limit", "4"]
    assert main(command) == 0
    out = folder / "text"
    *table, report = capsys.readouterr().out.splitlines()
    assert report == f"Report: {out / 'report.html'}"
    evaluation = json.loads((out / "evaluation.json").read_text())
    rows = evaluation["perplexity"]
    assert [line.split() for line in table] == [
        ["bits", "per", "byte", "words", "held-out"],
        *(
            [model, *(f"{row['bits_per_byte']:.3f}" for row in rows if row["model"] == model)]
            for model in ("llama_a", "hc")
        ),
    ]
    assert [(row["domain"], row["model"]) for row in rows] == [
        (domain, model) for domain in ("words", "held-out") for model in ("llama_a", "hc")
    ]
    assert {(row["documents"], row["window"], row["stride"]) for row in rows} == {(4, 32, 16)}
    assert evaluation["scores"] == evaluation["averages"] == []
    assert evaluation["facts"]["limit"] == "the first 4 documents of each domain"
    assert not {"data", "batch size", "lm-eval"} & evaluation["facts"].keys()
    page = (out / "report.html").read_text()
    assert "<h1>Perplexity: llama_a, hc</h1>" in page and "bits per byte, mean of 2 domains" in page
    assert "windows of 32 tokens that begin 16 tokens apart" in page and "BOS and EOS are not scored" in page
    assert "words (4), held-out (4): so few documents" in page and "Accuracy" not in page
    assert {path.name for path in (out / "figures").iterdir()} == {
        f"{name}.{kind}"
        for name in ("perplexity", "loss_by_context", "loss_by_share")
        for kind in ("csv", "png", "svg")
    }
    assert len((out / "table.md").read_text().splitlines()) == len(rows) + 2
    first = (out / "evaluation.json").read_bytes()
    assert main(command) == 0 and (out / "evaluation.json").read_bytes() == first


def test_tasks_and_text_share_a_report(folder, capsys):
    command = [*evaluate(folder, "static", "hc", out="both", tasks="copa,rte"), "--domain", str(folder / "words.jsonl")]
    assert main(command) == 0
    scores, bits = capsys.readouterr().out.split("\n\n")
    assert [line.split()[0] for line in scores.splitlines()] == ["task", "copa,", "hc", "rte,", "hc", "average", "hc"]
    assert [line.split()[0] for line in bits.splitlines()] == ["bits", "static", "hc", "Report:"]
    page = (folder / "both" / "report.html").read_text()
    assert "<h1>Benchmarks and perplexity: static, hc</h1>" in page and "bits per byte on words" in page
    assert "a sample of items or documents" in page and "all items" not in page
    assert "the first 8 items of each task and documents of each domain" in page
    assert (folder / "both" / "table.md").read_text().count("\n| ---") == 2


def test_interrupted_it_keeps_the_domains_that_are_done(folder, capsys, monkeypatch):
    from limelm.evaluation import domains

    score = domains.score_path

    def interrupted(model, tokenizer, path, *rest, **options):
        if path.name == "one.txt":
            raise KeyboardInterrupt
        return score(model, tokenizer, path, *rest, **options)

    monkeypatch.setattr(domains, "score_path", interrupted)
    command = perplexity(folder, "static", text=[str(folder / "words.jsonl"), str(folder / "one.txt")], out="half")
    assert "the same command goes on from there" in fails(capsys, *command, code=130)
    assert [path.name for path in (folder / "half" / "items").rglob("*.json")] == ["words-perplexity.json"]
    ran = []
    monkeypatch.setattr(
        domains, "score_path", lambda *rest, **more: (ran.append(rest[2].name), score(*rest, **more))[1]
    )
    assert main(command) == 0 and ran == ["one.txt"]
    rows = json.loads((folder / "half" / "evaluation.json").read_text())["perplexity"]
    assert [row["low"] is None for row in rows] == [False, True]


def test_bad_text_is_one_line_and_leaves_nothing(folder, capsys):
    (folder / "empty.txt").write_text("")
    write_checkpoint(folder / "narrow", "none", max_position_embeddings=24)
    out = ["--out", str(folder / "bad")]
    for arguments, message in [
        ([], "nothing to score: give --tasks, --domain or both"),
        (["--tasks", "induction", "--window", "8"], "--window: only with --domain"),
        (["--tasks", "induction", "--stride", "8"], "--stride: only with --domain"),
        (["--domain", "words.jsonl", "--shots", "1"], "--shots: only with --tasks"),
        (["--domain", "words.jsonl", "--local-data", "benchmarks"], "--local-data: only with --tasks"),
        (["--domain", str(folder / "nowhere")], "nowhere: no such file or folder"),
        (["--domain", str(folder / "empty.txt")], "empty.txt: no text to score"),
        (["--domain", "a=x.txt", "--domain", "a=y.txt"], "--domain: two domains are called 'a'"),
        (["--domain", str(folder / "words.jsonl"), "--window", "1"], "--window: 1 must be at least 2"),
        (["--domain", str(folder / "words.jsonl"), "--window", "25"], "the context of"),
        (["--domain", str(folder / "words.jsonl"), "--stride", "24"], "--stride: 24 must be from 1 to 23"),
    ]:
        line = fails(capsys, "eval", str(folder / "static"), str(folder / "narrow"), *arguments, *out)
        assert message in line and not (folder / "bad").exists()


def test_without_the_harness_its_extra_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    line = fails(capsys, *evaluate(folder, "static", out="bad"))
    assert "lm-eval is not installed; install it with: pip install 'limelm[eval]'" in line


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
    evaluation = json.loads((folder / "generated" / "evaluation.json").read_text())
    assert [row["chance"] for row in evaluation["scores"]] == [1 / 8, 1 / 8]
    assert evaluation["averages"][0]["chance"] == 1 / 8 and evaluation["facts"]["data"] == "made here"
    assert main(evaluate(folder, "static", out="generated", tasks="copa,induction")) == 0
    data = json.loads((folder / "generated" / "evaluation.json").read_text())["facts"]["data"]
    assert data == "benchmarks; made here: induction"


def test_too_short_a_context_is_told_in_one_line_each(folder, capsys):
    write_checkpoint(folder / "short", "none", max_position_embeddings=6)
    assert main(evaluate(folder, "short", "static", out="short-out", tasks="multirc,rte")) == 0
    out = capsys.readouterr().err
    assert "short: no multirc: an answer has" in out
    page = (folder / "short-out" / "report.html").read_text()
    assert "multirc: short: an answer has" in page and "rte (short: 8)" in page
    line = fails(capsys, *evaluate(folder, "short", out="nothing", tasks="multirc"), code=2)
    assert "no task could be scored" in line
    shutil.rmtree(folder / "short")
