"""The files of `examples/`: each is a script and a notebook in one, and does what its text says, here in small."""

import ast
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import limelm
from tests.analysis.models_on_text import write_study
from tests.examples.running import FOLDER, PARAMETERS, cells, run_example, with_parameters

#: The values with which each takes seconds. Nothing is trained for long enough to be good.
SMALL: dict[str, dict[str, Any]] = {
    "analysis": {"STEPS": 5, "DOCUMENTS": 18, "SEQUENCES": 8},
    "attach": {"BASE_STEPS": 10, "STEPS": 6, "DOCUMENTS": 18},
    "compare": {"SEEDS": 2, "STEPS": 4, "DOCUMENTS": 18},
    "explore": {"STEPS": 10, "DOCUMENTS": 18, "TEXT": "def main(argv):"},
    "own_loop": {"STEPS": 12, "LAYERS": 3, "CONTEXT": 32},
    "serve": {"STEPS": 5, "DOCUMENTS": 18, "TOKENS": 8},
    "train": {"STEPS": 12, "DOCUMENTS": 18, "LAYERS": 3, "HIDDEN_SIZE": 32},
}
#: What `pip install 'transformers[serving]'` brings and limelm does not.
SERVING = ("fastapi", "openai", "uvicorn")
MOST_LINES = 150

in_cells = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_example_is_run_here():
    """`nanolime.py` has a command line and tests of its own."""
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SMALL, "nanolime"}


@in_cells
def test_it_is_a_script_and_a_notebook_in_one(name):
    path = FOLDER / f"{name}.py"
    first, title, *others = cells(path)
    assert first == "" and title.startswith("# %% [markdown]\n# # ")
    assert [cell.startswith(PARAMETERS) for cell in others].count(True) == 1
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    for cell in (title, *others):
        head, *lines = cell.splitlines()
        if head.startswith("# %% [markdown]"):
            assert all(line.startswith("#") or not line for line in lines), cell
        else:
            assert head in ("# %%", PARAMETERS.strip()) and lines, cell
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert not [node for node in nodes if isinstance(node, ast.Name) and node.id == "__name__"]


@in_cells
def test_its_parameters_are_constants_and_its_folder_is_ignored(name):
    (cell,) = (cell for cell in cells(FOLDER / f"{name}.py") if cell.startswith(PARAMETERS))
    found = {}
    for statement in ast.parse(cell).body:
        assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        found[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert all(parameter.isupper() for parameter in found)
    assert found["OUT"] == f"example-{name.replace('_', '-')}"
    assert "/example-*/" in (FOLDER.parent / ".gitignore").read_text().splitlines()


def test_an_unknown_parameter_is_refused():
    assert "\nSTEPS = 7\n" in with_parameters(FOLDER / "train.py", {"STEPS": 7})
    with pytest.raises(KeyError, match=r"train\.py: STEP is none of its parameters"):
        with_parameters(FOLDER / "train.py", {"STEP": 7})


def written() -> set[str]:
    return {path.name for path in Path().iterdir()}


def test_train(capsys):
    names = run_example("train", SMALL["train"])
    run = Path("example-train/dynamic")
    assert written() == {"example-train"}
    assert {"model.safetensors", "tokenizer.json", "result.json"} <= {path.name for path in run.iterdir()}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    first, last = (float(line.split()[-4]) for line in (lines[0], lines[-1]))
    assert last == round(names["result"].eval_loss, 2) and last < first < math.log(2048) + 0.1
    assert names["text"].startswith("def __init__(self, ") and len(names["text"]) > 40
    before = (run / "model.safetensors").stat().st_mtime_ns
    assert run_example("train", SMALL["train"])["result"] == names["result"]  # it is read, not made again
    assert (run / "model.safetensors").stat().st_mtime_ns == before


def test_own_loop():
    names = run_example("own_loop", SMALL["own_loop"])
    losses = names["losses"]
    assert written() == {"example-own-loop"} and losses[12] < losses[1] - 0.5
    assert names["difference"] == 0 and names["tokens"].shape == (1, 32)
    loaded = limelm.load_model("example-own-loop")
    assert loaded.config.routing == "kv" and loaded.num_parameters() == names["model"].num_parameters()


def test_attach(capsys):
    names = run_example("attach", SMALL["attach"])
    printed = capsys.readouterr().out
    assert "after attach, logits differ by 0.0" in printed and printed.count("loaded again, logits differ by 0.0") == 1
    assert torch.equal(names["original"], names["detached"])
    assert not torch.equal(names["routed"], names["original"])
    assert names["after"] < names["before"] and names["after_sft"] < names["before_sft"]
    sample, base = names["sample"], AutoModelForCausalLM.from_pretrained("example-attach/base")
    limelm.load_adapter(base, "example-attach/routers")
    with torch.no_grad():
        assert torch.equal(base(sample).logits, names["routed"])
        both = limelm.load_model("example-attach/routers-and-lora")(sample).logits
    torch.testing.assert_close(both, names["trained_logits"])
    assert (Path("example-attach/routers-and-lora/lora") / "adapter_config.json").exists()
    assert written() == {"example-attach"}


def test_explore(capsys):
    names = run_example("explore", SMALL["explore"])
    assert written() == {"example-explore"}
    assert "<html" in Path("example-explore/explorer.html").read_text(encoding="utf-8")
    assert names["strongest"]["loss"] > 0
    assert names["after"] - names["before"] == pytest.approx(names["strongest"]["loss"], abs=1e-4)
    model, tokens = names["model"], names["tokens"]
    with torch.no_grad():  # the block has left nothing behind
        assert model(tokens, labels=tokens).loss.item() == names["before"]
        with limelm.routes(model).scale(0, source=0):
            assert model(tokens, labels=tokens).loss.item() == names["without"] != names["before"]
    printed = capsys.readouterr().out
    assert "layer 5 reads, by mean weights, 0." in printed and "of source 5\n" in printed


@pytest.mark.parametrize("kind", ["static", "kv", "dense", "blocks"])
def test_explore_looks_at_any_model_that_routes(kind, tmp_path, capsys):
    checkpoint = write_study(tmp_path / "study") / kind
    names = run_example("explore", {**SMALL["explore"], "CHECKPOINT": str(checkpoint), "TEXT": "one day it was late"})
    assert names["after"] - names["before"] == pytest.approx(names["strongest"]["loss"], abs=1e-4)
    (place, *_) = names["shown"]["places"]
    assert f"{place['name']} reads, by mean weights, 0." in capsys.readouterr().out


def test_compare(capsys):
    names = run_example("compare", SMALL["compare"])
    assert written() == {"example-compare"}
    losses = {name: np.array(list(by_seed.values())) for name, by_seed in names["losses"].items()}
    assert {name: len(values) for name, values in losses.items()} == {"llama": 2, "static": 2}
    differences = losses["static"] - losses["llama"]
    half = 12.7062 * differences.std(ddof=1) / math.sqrt(2)  # Student's 97.5 % point with one degree of freedom
    assert names["row"]["t_low"] == pytest.approx(differences.mean() - half, rel=1e-4)
    last = capsys.readouterr().out.splitlines()[-1]
    apart = "static differs from llama: its held-out loss is "
    differ = abs(differences.mean()) > half
    assert last.startswith(apart if differ else "static and llama cannot be told apart with 2 seeds")
    assert f"{differences.mean():+.4f} nats per token" in last


@pytest.mark.parametrize("kind", ["dynamic", "hc"])
def test_analysis(kind, capsys):
    pytest.importorskip("sklearn")
    names = run_example("analysis", {**SMALL["analysis"], "MODEL": kind})
    printed = capsys.readouterr().out
    assert written() == {"example-analysis"}
    assert "X_6: CKA with the embedding" in printed and "X_0: CKA with the embedding 1.000" in printed
    assert ("random routes reach" in printed) == ("layer 5, mean weights over heads" in printed) == (kind == "dynamic")
    assert ("has no routers" in printed) == (kind == "hc")
    if kind == "dynamic":
        assert all(np.allclose(rows.sum(axis=-1), 1, atol=1e-5) for rows in names["weights"].layers.values())


def test_serve(monkeypatch, tmp_path, capsys):
    missing = [package for package in SERVING if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed; pip install 'transformers[serving]' brings it")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))  # the server finds this limelm
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    names = run_example("serve", SMALL["serve"])
    assert names["server"].returncode is not None and len(names["pieces"]) > 1
    model = limelm.load_model("example-serve/model")
    tokenizer = AutoTokenizer.from_pretrained("example-serve/model")
    prompt = tokenizer(names["PROMPT"], return_tensors="pt")
    tokens = model.generate(**prompt, max_new_tokens=8, do_sample=False, repetition_penalty=1.3)
    written_here = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "".join(names["pieces"]) == written_here
    assert written() == {"example-serve", "modules"}
