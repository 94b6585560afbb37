import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from transformers import BertConfig

from limelm.cli import main
from limelm.training import load_recipe, reproduce
from tests.recipes import corpus, prepared, write_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run made through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    data = prepared(folder / "tokens")
    arguments = ["reproduce", str(write_recipe(folder)), "--data", str(data), "--out", str(folder / "run")]
    assert main(arguments) == 0
    return arguments, folder


def fails(capsys, *arguments, code=2):
    """Run, expect failure in one line on stderr, and return the line."""
    try:
        returned = main([str(argument) for argument in arguments])
    except SystemExit as exit:  # argparse
        returned = exit.code
    assert returned == code
    error = capsys.readouterr().err
    lines = [line for line in error.replace("\r", "\n").splitlines() if line.strip()]
    lines = [line for line in lines if not re.search(r"\w/s[,\]]|\d/\d+ \[", line)]  # progress bars
    lines = [line for line in lines if not line.startswith(("training the tokenizer", "tokenizing"))]
    assert len(lines) == 1, error
    assert lines[0].startswith("limelm") and ": error: " in lines[0]
    return lines[0]


def test_reproduce_reports_and_says_when_it_is_complete(run, capsys):
    arguments, folder = run
    assert (folder / "run" / "report.html").exists() and (folder / "run" / "summary.json").exists()
    assert main(arguments) == 0
    assert "complete, nothing to train" in capsys.readouterr().out
    (folder / "run" / "report.html").unlink()
    assert main([*arguments, "--models", "hc,static,kv"]) == 0
    out = capsys.readouterr().out
    assert "LIMe static" in out and "report.html" in out
    assert len(json.loads((folder / "run" / "summary.json").read_text())["trainings"]) == 5


def test_a_report_older_than_its_run_is_written_again(run, capsys):
    arguments, folder = run
    recipe, data = load_recipe(arguments[1]), folder / "tokens"
    assert main(arguments) == 0
    reproduce(recipe, folder / "run", [name for name in recipe.models if name == "kv"], data)
    os.utime(folder / "run" / "report.html", ns=(0, 0))  # as if the process had died before the report
    assert main(arguments) == 0
    assert "Report: " in capsys.readouterr().out.splitlines()[-1]
    assert ">kv<" in (folder / "run" / "report.html").read_text()


def test_stdout_holds_the_table_and_nothing_else(run, capsys):
    arguments, folder = run
    capsys.readouterr()
    assert main([*arguments[:-1], str(folder / "again")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == ["model", "LLaMA", "LIMe dynamic"]
    assert lines[-1].startswith("Report: ")


STATIC, KV = ["tiny", "--model", "static"], ["train", "tiny", "--model", "kv"]


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 9}, {"model_type": "llama"}, {"routing": "static"}, {"intermediate_size": 32}]
)
def test_weights_that_do_not_fit_their_config_are_refused(run, tmp_path, capsys, change):
    _, folder = run
    shutil.copytree(folder / "run/seed-1/dynamic", tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**config, **change}))
    capsys.readouterr()
    line = fails(capsys, "generate", tmp_path / "copy", "x")
    assert "weights do not fit config.json" in line or "broken checkpoint" in line


def test_generate_streams_the_same_text_for_the_same_seed(run, capsys):
    _, folder = run
    texts = []
    for name, options in (("llama", []), ("llama", []), ("dynamic", ["--temperature", "0"])):
        assert main(["generate", str(folder / "run/seed-1" / name), "memory", "--max-new-tokens", "8", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and texts[0].startswith("memory") and len(texts[0].strip()) > len("memory")
    assert texts[2].startswith("memory")
    assert main(["generate", str(folder / "run/seed-1/llama"), "", "--max-new-tokens", "3"]) == 0


def test_data_prepare_from_files(tmp_path, capsys):
    rows = "".join(json.dumps({"body": text}) + "\n" for text in corpus())
    (tmp_path / "a.jsonl").write_text(rows)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.txt").write_text("a single line\n")
    out = tmp_path / "tokens"
    arguments = ["data", "prepare", tmp_path / "a.jsonl", "--text-field", "body", "--out", out, "--vocab-size", 300]
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out
    assert "train" in printed and "validation" in printed and "uint16" in printed
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"] == "a.jsonl" and manifest["vocab_size"] == 300
    again = ["data", "prepare", tmp_path / "folder", "--tokenizer", out / "tokenizer", "--out", tmp_path / "b"]
    assert main([str(argument) for argument in again]) == 2  # one line of text only: nothing to hold out
    assert not (tmp_path / "b").exists()


def test_data_prepare_from_a_data_set(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus()))
    arguments = ["data", "prepare", "--dataset", tmp_path / "set", "--out", tmp_path / "out", "--vocab-size", 300]
    assert main([str(argument) for argument in [*arguments, "--max-documents", 20]]) == 0
    splits = json.loads((tmp_path / "out" / "manifest.json").read_text())["splits"]
    assert splits["train"]["documents"] + splits["validation"]["documents"] == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["reproduce", "huge", "--out", "run"],
            "unknown recipe 'huge'; allowed: the path of a .toml file, arithmetic-3",
        ),
        (["reproduce", "tiny", "--out", "run", "--models", "mamba"], "unknown model; allowed: llama"),
        (["reproduce", "tiny", "--out", "run", "--steps", "0"], "training.steps=0 must be at least 1"),
        (
            ["reproduce", "tiny", "--out", "run", "--stepz", "3"],
            "unknown field 'stepz'; did you mean 'steps'?",
        ),
        (["reproduce", "tiny", "--out", "run", "--steps"], "--steps: needs a value"),
        (
            ["reproduce", "tiny", "--out", "run", "--modles", "--seed=1"],
            "needs a value; did you mean --models?",
        ),
        (["reproduce", "tiny", "--out", "run", "--seed=1", "--seed=2"], "--seed: given twice"),
        *(
            (
                [*KV, "--data", ".", "--out", "run", f"--{field}={value}"],
                f"--{option}: not with --data",
            )
            for field, option, value in (
                ("vocab-size", "vocab-size", 300),
                ("data.vocab_size", "vocab-size", 300),
                ("preset", "preset", "fineweb-edu"),
                ("validation-fraction", "validation-fraction", 0.5),
            )
        ),
        (["reproduce", "tiny", "--out", "run", "--seed", "one"], "seed='one' must be an integer"),
        (["reproduce", "tiny", "--out", "run", "--report-to", "x"], "invalid choice: 'x'"),
        (["train", "tiny", "--out", "run"], "recipe tiny: has several models; name one with --model: llama, hc"),
        (["train", "tiny", "--model", "statik", "--out", "run"], "unknown model 'statik'; did you mean 'static'?"),
        (["train", "teeny", "--out", "run"], "unknown recipe 'teeny'; did you mean 'tiny'?"),
        (["train", "tiny", "--out", "run"], "recipe tiny: has several models; name one with --model: llama, hc"),
        (
            ["train", "--steps", "3", *STATIC, "--out", "run", "--routing", "x"],
            "routing='x' is unknown",
        ),
        (["train", *STATIC, "--out", "run", "--report-to", "trackio"], "trackio: not installed"),
        (["train", *STATIC, "--out", "run", "--data", "nowhere"], "nowhere: no such file or folder"),
        (
            ["train", *STATIC, "--out", "run", "--batch-size", "0"],
            "training.batch_size=0 must be at least 1",
        ),
        (
            ["train", *STATIC, "--out", "run", "--compile", "yes"],
            "compile='yes' must be true or false",
        ),
        (
            ["train", *STATIC, "--out", "run", "--sharding", "fsdp", "--data", "."],
            "engine.sharding='fsdp' needs",
        ),
        (["reproduce", "tiny", "--out", "run", "--data", "nowhere"], "nowhere: no such file or folder"),
        (["reproduce", "tiny", "--out", "file/run"], "file/run/run.json: Not a directory"),
        (["reproduce", "tiny"], "required: --out"),
        (["reproduce", "tiny", "--out", "run", "--seed", "-1"], "training.seed=-1 must be at least 0"),
        (["reproduce", "tiny", "--out", "run", "--models", ","], "--models: ',' names nothing"),
        (["data", "prepare", "long.txt", "--out", "."], ".: already there"),
        (
            ["data", "prepare", "long.txt", "--out", "run", "--dataset-config", "x"],
            "--dataset-config x is for",
        ),
        (["generate", "bert", "x", "--temperature", "nan"], "--temperature nan must be 0, or from"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        ([], "required: COMMAND"),
        (["data", "prepare", "missing.txt", "--out", "run"], "missing.txt: no such file or folder"),
        (["data", "prepare", "empty.txt", "--out", "run"], "no text to train on"),
        (["data", "prepare", "binary.txt", "--out", "run"], "binary.txt: not UTF-8 text"),
        (["data", "prepare", "short.txt", "--out", "run"], "too short for a tokenizer of 4096"),
        (["data", "prepare", "long.txt", "--out", "file/run", "--vocab-size", "300"], "file/run: Not a directory"),
        (["data", "prepare", "short.txt", "--out", "run", "--validation-fraction", "2"], "validation_fraction=2.0"),
        (["data", "prepare", "short.txt", "--dataset", "x", "--out", "run"], "not both"),
        (["data", "prepare", "--preset", "pile", "--out", "run"], "invalid choice: 'pile'"),
        (["generate", "./nowhere", "x"], "./nowhere: no such folder"),
        (["generate", "bert", "x"], "bert: broken checkpoint"),
        (["generate", "broken", "x"], "broken/config.json: not JSON"),
        (["generate", "weightless", "x"], "weightless: broken checkpoint"),
        (["generate", "badrouting", "x"], "routing='psychic'"),
        (["generate", "bert", "x", "--top-p", "0"], "--top-p 0.0 is outside (0, 1]"),
        (["generate", "bert", "x", "--temperature", "-1"], "--temperature -1.0 must be 0, or from"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("too short\nto train on\n")
    (tmp_path / "long.txt").write_text("".join(corpus()))
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    for name, config in (
        ("broken", "{"),
        ("weightless", json.dumps({"model_type": "lime", "hidden_size": 32, "num_attention_heads": 2})),
        ("badrouting", json.dumps({"model_type": "lime", "routing": "psychic"})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    BertConfig().save_pretrained(tmp_path / "bert")
    before = sorted(tmp_path.rglob("*"))
    assert message in fails(capsys, *arguments)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('routing = "dynamic"', 'routing = "psychic"'),
            "routing='psychic' is unknown; allowed: none, static, dynamic",
        ),
        (('routing = "dynamic"', 'routing = "static"\nrouting_top_p = 0'), "routing_top_p=0 must be in (0, 1]"),
        (('routing = "dynamic"', 'routing = "static"\nrouting_top_p = 1.5'), "routing_top_p=1.5 must be in (0, 1]"),
        (('routing = "dynamic"', 'routing = "kv"\nrouting_top_p = 0.9'), "needs routing='static', not 'kv'"),
        (
            ("hidden_size = 32", "hidden_size = 33"),
            "hidden_size=33 is not divisible by num_attention_heads=2",
        ),
        (("batch_size = 2", "batch_size = 99999"), "fewer than one batch of 99999"),
        (("learning_rate = 1e-3", 'learning_rate = "1e-3"'), "learning_rate='1e-3' must be a number"),
    ],
)
def test_a_bad_recipe_ends_in_one_line_and_leaves_nothing(tmp_path, capsys, change, message):
    data, recipe = prepared(tmp_path / "tokens"), write_recipe(tmp_path, change)
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    line = fails(capsys, "reproduce", recipe, "--data", data, "--out", tmp_path / "run")
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_shard_ends_in_one_line(tmp_path, capsys):
    data = prepared(tmp_path / "tokens")
    shard = data / "validation-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\0\0")
    recipe = write_recipe(tmp_path)
    line = fails(capsys, "reproduce", recipe, "--data", data, "--out", tmp_path / "run")
    assert "validation-00000.bin: its hash is not the manifest's" in line
    assert not (tmp_path / "run").exists()


def test_an_interrupt_is_not_a_bug(tmp_path, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("limelm.recipes.files.load_recipe", interrupt)
    assert "interrupted" in fails(capsys, "reproduce", "tiny", "--out", tmp_path / "run", code=130)


def test_a_bug_shows_its_traceback_only_on_request(tmp_path, capsys, monkeypatch):
    def crash(*arguments, **options):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("limelm.recipes.files.load_recipe", crash)
    arguments = ["reproduce", "tiny", "--out", tmp_path / "run"]
    assert "RuntimeError: two lines" in fails(capsys, *arguments, code=1)
    assert main([*map(str, arguments), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["reproduce"], ["train"], ["data"], ["data", "prepare"], ["generate"]])
def test_help_answers(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([*command, "--help"])
    assert exit.value.code == 0
    assert "usage: limelm" in capsys.readouterr().out


def test_the_installed_command_runs():
    finished = subprocess.run(
        [sys.executable, "-c", "from limelm.cli import main; raise SystemExit(main())", "generate", "./nowhere", "x"],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2 and finished.stdout == ""
    said = "limelm generate: error: argument CHECKPOINT: ./nowhere: no such folder"
    assert finished.stderr == f"{said} (see limelm generate --help)\n"
