"""With --json stdout holds one JSON document with the keys that are documented, and nothing else."""

import contextlib
import json
import re
import sys
from pathlib import Path

import pytest

import limelm
from limelm.cli import main
from limelm.cli.main import COMMANDS
from limelm.cli.output import as_json
from tests.recipes import prepared, write_recipe

pytestmark = pytest.mark.usefixtures("figures_stay_undrawn")

DOCS = (Path(limelm.__file__).parents[1] / "docs/command_line.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe, token shards, and a run of two models; gives what `reproduce --json` printed, too."""
    folder = tmp_path_factory.mktemp("json")
    prepared(folder / "tokens")
    rows = [json.dumps({"text": f"text {number} to read and to count, word by word " * 9}) for number in range(40)]
    (folder / "text.jsonl").write_text("\n".join(rows))
    write_recipe(folder)
    return folder


def refuse(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def document(capsys, command: str, *arguments: str) -> dict:
    capsys.readouterr()
    assert main([*command.split(), *arguments, "--json"]) == 0
    out = capsys.readouterr().out
    facts = json.loads(out, parse_constant=refuse)
    assert set(facts) == set(COMMANDS[command].KEYS)
    return facts


def test_every_command_prints_its_document(made, capsys, monkeypatch):
    monkeypatch.chdir(made)
    done = {"generate"}  # it streams text and has no table
    data = ["--data", "tokens"]
    recipe = "small.toml"

    run = document(capsys, "reproduce", recipe, "--out", "run", *data, "--models", "llama,static")["runs"][0]
    assert [row["model"] for row in run["results"]] == ["LLaMA", "LIMe static"] and run["seeds"] == [1]
    assert Path(run["report"]).exists() and run["trained"] == ["seed-1/llama", "seed-1/static"]
    again = document(capsys, "reproduce", recipe, "--out", "run", *data, "--models", "llama,static")["runs"][0]
    assert again == {**run, "trained": []}

    texts = [made / f"text-{number}.txt" for number in range(40)]
    for path in texts:
        path.write_text(f"a text in a file of its own, {path.name}, " * 20)
    monkeypatch.setattr("limelm.data.presets.list_python_library", lambda: texts)
    small = "--models llama --steps 1 --batch-size 1 --sequence-length 32 --vocab-size 270 --validation-fraction 0.2"
    sizes = "--hidden-size 32 --intermediate-size 32 --num-hidden-layers 2 --num-attention-heads 2"
    demo = document(capsys, "demo", *small.split(), *sizes.split())
    assert demo["report"] == "demo/report.html" and demo["runs"][0]["recipe"] == "tiny"

    trained = document(capsys, "train", recipe, "--out", "one", *data, "--model", "static")
    assert trained["trained"] and trained["result"]["eval_loss"] == run["results"][1]["eval_loss"]
    assert not document(capsys, "train", recipe, "--out", "one", *data, "--model", "static")["trained"]

    plan = document(capsys, "plan", recipe, "--model", "static")
    assert plan["fits"] and plan["costs"]["parameters"] > plan["llama_costs"]["parameters"] > 0
    assert plan["costs"]["memory_bytes"]["total"] > 0

    prepare = document(capsys, "data prepare", "text.jsonl", "--out", "again", "--vocab-size", "270")
    assert prepare["vocab_size"] == 270 and sum(split["documents"] for split in prepare["splits"].values()) == 40

    scores = document(capsys, "eval", "run/seed-1/llama", "--out", "scores", "--domain", "tokens", "--window", "16")
    assert [row["model"] for row in scores["perplexity"]] == ["LLaMA"] and scores["scores"] == []

    models = ["run/seed-1/llama", "run/seed-1/static"]
    seen = document(
        capsys, "analyze", *models, "--out", "seen", *data, "--only", "collapse,retrieval", "--tokens", "64"
    )
    assert seen["models"] == ["LLaMA", "LIMe static"] and [note["analysis"] for note in seen["notes"]] == ["retrieval"]

    explored = document(capsys, "explore", *models, "--text", "the", "--out", "explored")
    assert explored["models"] == ["LLaMA", "LIMe static"] and Path(explored["page"]).exists()

    sizes = "--num-hidden-layers 2 --hidden-size 32 --num-attention-heads 2 --intermediate-size 32 --vocab-size 99"
    inputs = "--num-key-value-heads 1 --sequence-length 8 --batch-size 1 --decode-from 4 --rounds 1 --device cpu"
    few = ["--cases", "static", "--workloads", "forward", *sizes.split(), *inputs.split()]
    bench = document(capsys, "bench", "--out", "bench", *few)
    assert [row["case"] for row in bench["times"]] == ["static"] and bench["depths"] == [] == bench["memory"]

    assert "tiny" in [recipe["name"] for recipe in document(capsys, "recipes")["recipes"]]
    done |= {"demo", "reproduce", "train", "plan", "data prepare", "eval", "analyze", "explore", "bench", "recipes"}
    assert done | {"convert"} == COMMANDS.keys()  # it has a test in test_convert.py


def test_a_plan_that_does_not_fit_is_printed_before_the_error(made, capsys):
    assert main(["plan", str(made / "small.toml"), "--model", "kv", "--gpu-memory", "1", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["fits"] is False and err.startswith("limelm: error: small-kv needs ")


def test_what_libraries_print_is_not_in_the_document(monkeypatch, capsys):
    load = limelm.recipes.files.load_recipe

    def loud(*arguments):
        print("a notice of somebody's")
        return load(*arguments)

    monkeypatch.setattr("limelm.recipes.files.load_recipe", loud)
    assert main(["recipes", "tiny", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["recipes"][0]["name"] == "tiny" and "a notice of somebody's" in err


def test_an_error_leaves_stdout_empty(capsys):
    assert main(["recipes", "teeny", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_no_character_or_number_breaks_the_document():
    facts = {
        "a\x1b": ["\x7f", "\u202e", "é", float("nan"), float("-inf"), 0.5, None],
        "b": Path("c"),
        "d": ({1: True},),
    }
    text = as_json(facts)
    assert text.isascii() and text.replace("\n", "").isprintable()
    back = json.loads(text, parse_constant=refuse)
    assert back == {"a\x1b": ["\x7f", "\u202e", "é", None, None, 0.5, None], "b": "c", "d": [{"1": True}]}


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if hasattr(command, "KEYS")])
def test_the_keys_are_documented(command):
    [row] = re.findall(rf"^\| `{command}` \| (.*) \|$", DOCS, re.MULTILINE)
    assert set(COMMANDS[command].KEYS) <= set(re.findall(r"`(\w+)`", row))


def test_stdout_is_given_back():
    before = sys.stdout
    with contextlib.redirect_stdout(before):
        assert main(["recipes", "--json"]) == 0
    assert sys.stdout is before
