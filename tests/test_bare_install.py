"""What `pip install limelm` brings is enough for the models; what else is missing is said in one line, before any work.

The tests start processes that do not see the packages of the extras (tests/bare_install/sitecustomize.py).
"""

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import limelm
from limelm.cli.main import COMMANDS
from limelm.data.dataset import load_prepared_tokenizer
from limelm.extras import REQUIREMENTS
from limelm.registration import MODELS
from tests.recipes import prepared

ROOT = Path(limelm.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
#: Others bring some of them too (PyTorch jinja2, its CUDA builds triton); limelm may not count on that.
OF_EXTRAS = {
    "accelerate",
    "jinja2",
    "matplotlib",
    "psutil",
    "tomli-w",
    "datasets",
    "scikit-learn",
    "lm-eval",
    "peft",
    "triton",
    "starlette",
    "uvicorn",
}


def names(requirements: list[str]) -> set[str]:
    """The distributions that are asked for without any extra, where this runs."""
    parsed = map(Requirement, requirements)
    return {
        canonicalize_name(each.name) for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})
    }


def brought(roots: set[str]) -> set[str]:
    """These distributions, what they need, and so on."""
    found: set[str] = set()
    left = list(roots)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += names(metadata.requires(name) or [])
    return found


def hide(distributions: set[str]) -> dict[str, str]:
    """The environment of a process that does not see them."""
    modules = [
        module
        for module, owners in metadata.packages_distributions().items()
        if {canonicalize_name(owner) for owner in owners} <= distributions
    ]
    own_names = [each.metadata["Name"] for each in metadata.distributions()]
    hidden = {
        "modules": modules,
        "distributions": [name for name in own_names if canonicalize_name(name) in distributions],
    }
    places = [str(ROOT / "tests" / "bare_install"), str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "HIDDEN": json.dumps(hidden), "COLUMNS": "100"}


INSTALLED = {canonicalize_name(each.metadata["Name"]) for each in metadata.distributions()}
CORE, LAB = names(PROJECT["dependencies"]), names(PROJECT["optional-dependencies"]["lab"])
BARE = hide(INSTALLED - (brought(CORE) - OF_EXTRAS) - {"limelm"})
WITH_LAB = hide(INSTALLED - brought(CORE | LAB) - {"limelm"})


def python(*arguments: object, folder: Path, environment: dict[str, str] = BARE) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def succeeds(*arguments: object, folder: Path, environment: dict[str, str] = BARE) -> str:
    """Run without the extras; gives what stands on stdout."""
    finished = python(*arguments, folder=folder, environment=environment)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


#: The command; it ends with 3 where it was not at once that it ended.
AT_ONCE = """
import sys
from limelm.cli import main
code = main(sys.argv[1:])
sys.exit(3 if "torch" in sys.modules else code)
"""


def refused(*command: object, folder: Path, environment: dict[str, str] = BARE) -> str:
    """Run a command that must leave nothing behind and end with 2; gives its one line."""
    before = sorted(folder.rglob("*"))
    finished = python(*command, folder=folder, environment=environment)
    assert finished.returncode == 2 and not finished.stdout, finished.stderr
    assert sorted(folder.rglob("*")) == before
    (line,) = finished.stderr.splitlines()
    assert line.startswith("limelm: error: ")
    return line


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Text, tokens, a Llama with its tokenizer, an adapter for it, and a LoRA."""
    folder = tmp_path_factory.mktemp("bare")
    tokenizer = load_prepared_tokenizer(prepared(folder / "tokens"))
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": len(tokenizer)}, num_attention_heads=2))
    base.save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    limelm.save_adapter(limelm.attach(limelm.load_model(folder / "llama"), "kv"), folder / "routers")
    lora = {"base_model_name_or_path": str(folder / "llama"), "peft_type": "LORA"}
    (folder / "lora").mkdir()
    (folder / "lora" / "adapter_config.json").write_text(json.dumps(lora))
    (folder / "text.txt").write_text("one two three four five six seven eight nine ten\n" * 200)
    (folder / "text.parquet").write_bytes(b"PAR1")
    return folder


# What is tested with


CHECK = """
import importlib, importlib.metadata, importlib.util, json, os
hidden = json.loads(os.environ["HIDDEN"])
for module in hidden["modules"]:
    assert importlib.util.find_spec(module) is None, module
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        assert error.name == module
    else:
        raise AssertionError(module)
for name in hidden["distributions"]:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    raise AssertionError(name)
assert not set(hidden["modules"]) & set(importlib.metadata.packages_distributions())
from transformers import utils
for library in ("accelerate", "datasets", "peft", "psutil"):
    assert not getattr(utils, f"is_{library}_available")()
print(" ".join(hidden["modules"]))
"""


def test_what_is_hidden_is_not_there_for_whoever_asks(tmp_path):
    hidden = set(succeeds("-c", CHECK, folder=tmp_path).split())
    assert hidden >= {"accelerate", "jinja2", "matplotlib", "psutil", "datasets", "sklearn", "peft", "pytest", "pandas"}
    assert not hidden & {"torch", "transformers", "safetensors", "tokenizers", "numpy", "tqdm", "limelm"}


# What a bare install can do


def test_an_install_brings_nothing_but_torch_and_transformers_and_what_these_bring():
    assert {"torch", "transformers"} <= CORE <= brought({"torch", "transformers"})
    assert not CORE & OF_EXTRAS


LIBRARY = """
import torch, limelm
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
sizes = dict(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2)
tokens = torch.arange(12)[None]
torch.manual_seed(0)

def train(model):
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    optimizer = torch.optim.AdamW(limelm.parameter_groups(model))
    optimizer.step()
    model.eval()
    assert model.generate(tokens, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (1, 15)
    with torch.no_grad():
        return model(tokens).logits, model.state_dict()

configs = {r: limelm.LimeConfig(routing=r, **sizes) for r in ("none", "static", "dynamic", "kv")}
others = {t: c for t, (c, _, _) in limelm.registration.CLASSES.items() if t != "lime"}
configs |= {model_type: getattr(limelm, config)(**sizes) for model_type, config in others.items()}
for name, config in configs.items():
    torch.save(train(model := AutoModelForCausalLM.from_config(config)), f"{name}.pt")
    model.save_pretrained(name)
    assert type(limelm.load_model(name)) is type(type(model).from_pretrained(name)) is type(model)

base = LlamaForCausalLM(LlamaConfig(**sizes))
base.save_pretrained("base")
base = limelm.load_model("base")
limelm.set_trainable(limelm.attach(base, "kv"))
torch.save(train(base), "attached.pt")
limelm.save_adapter(base, "attached")
limelm.detach(base)
limelm.load_adapter(base, "attached")
"""


def test_models_are_made_trained_saved_and_loaded_and_are_the_same_with_everything_installed(tmp_path):
    succeeds("-c", LIBRARY, folder=tmp_path)
    for name in ("none", "static", "dynamic", "kv", *(MODELS.keys() - {"lime"}), "attached"):
        load = limelm.load_model if name == "attached" else AutoModelForCausalLM.from_pretrained
        model = load(tmp_path / name)
        with torch.no_grad():
            logits = model.eval()(torch.arange(12)[None]).logits
        expected, weights = torch.load(tmp_path / f"{name}.pt")
        torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
        torch.testing.assert_close(logits, expected)  # in another process products may round differently


NO_LAB = (
    "accelerate>=1.10, jinja2>=3.1, matplotlib>=3.9, psutil>=5.9, tomli-w>=1.1 are not installed; install them with: "
    "pip install 'limelm[lab]' (in a clone of limelm: pip install -e '.[lab]')"
)
IMPORT_ALL = """
import importlib, pkgutil, limelm
for module in pkgutil.walk_packages(limelm.__path__, "limelm.", onerror=lambda name: None):
    if module.name.startswith(("limelm.routing.ops.triton", "limelm.__main__")):
        continue  # its package says: importable only where triton is installed; and this one is the command
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        assert type(error).__name__ == "MissingExtra" and len(str(error).splitlines()) == 1, (module.name, repr(error))
        print(module.name, "|", error)
"""


@pytest.mark.parametrize("environment", [BARE, WITH_LAB], ids=["bare", "lab"])
def test_every_module_can_be_imported_or_says_what_to_install(tmp_path, environment):
    output = succeeds("-c", IMPORT_ALL, folder=tmp_path, environment=environment)
    said = dict(line.split(" | ") for line in output.splitlines())
    of_harness = said.pop("limelm.evaluation.language_model")
    assert "lm-eval is not installed; install it with: pip install 'limelm[eval]'" in of_harness
    need_the_lab = {"planning", "recipes", "report", "training"}
    assert {name.split(".")[1] for name in said} == (need_the_lab if environment is BARE else set())
    for line in said.values():
        assert line in {f"limelm.{package}: {NO_LAB}" for package in need_the_lab}


NANOLIME = """
import functools, sys
sys.path.insert(0, sys.argv[1])
import nanolime
nanolime.Config = functools.partial(nanolime.Config, hidden_size=16, intermediate_size=16, num_layers=2, context=16)
nanolime.main(["--routing", "kv", "--steps", "1"])
"""


def test_nanolime_trains_and_samples(tmp_path):
    printed = succeeds("-c", NANOLIME, ROOT / "examples", folder=tmp_path)
    assert "step     1   loss" in printed and "\ndef " in printed


# Commands


#: A call of each command, by the extra that it needs.
CALLS = {
    None: {
        "convert": "convert {made}/routers --out native",
        "data prepare": "data prepare {made}/text.txt --out tokens --vocab-size 280 --processes 2",
        "explore": "explore {made}/routers --text one",
        "generate": "generate {made}/routers one --max-new-tokens 3",
    },
    "lab": {
        "analyze": "analyze {made}/llama --data {made}/text.txt --out analysis",
        "bench": "bench --out bench",
        "demo": "demo",
        "eval": "eval {made}/llama --domain {made}/text.txt --out scores",
        "plan": "plan tiny --model static",
        "recipes": "recipes",
        "reproduce": "reproduce tiny --out demo",
        "train": "train tiny --model static --out static",
    },
}
NEEDS = {command: needs for needs, calls in CALLS.items() for command in calls}


def words(call: str, made: Path) -> list[str]:
    return [word.format(made=made) for word in call.split()]


def test_every_command_is_here_with_what_it_needs():
    assert {name: command.NEEDS for name, command in COMMANDS.items()} == NEEDS
    for extra, requirements in REQUIREMENTS.items():
        assert list(requirements) == PROJECT["optional-dependencies"][extra]


@pytest.mark.parametrize("command", ["", "data", *COMMANDS])
def test_help(tmp_path, command):
    assert succeeds("-m", "limelm", *command.split(), "--help", folder=tmp_path).startswith("usage: limelm")


def test_generate(made, tmp_path):
    assert succeeds("-m", "limelm", *words(CALLS[None]["generate"], made), folder=tmp_path).startswith("one")


def test_explore_writes_a_page_and_serving_says_what_it_needs(made, tmp_path):
    call = words(CALLS[None]["explore"], made)
    assert succeeds("-m", "limelm", *call, folder=tmp_path) == "Page: explorer/explorer.html\n"
    line = refused("-m", "limelm", *call, "--serve", folder=tmp_path)
    assert "--serve: starlette>=1.0, uvicorn>=0.35 are not installed" in line and "limelm[explore]" in line


def test_convert_there_and_back(made, tmp_path):
    assert "native, routing='kv'" in succeeds("-m", "limelm", *words(CALLS[None]["convert"], made), folder=tmp_path)
    assert "a Llama in base/" in succeeds("-m", "limelm", "convert", "native", "--out", "back", folder=tmp_path)


def test_data_prepare(made, tmp_path):
    assert "vocabulary 280" in succeeds("-m", "limelm", *words(CALLS[None]["data prepare"], made), folder=tmp_path)


@pytest.mark.parametrize("command", CALLS["lab"])
def test_a_command_that_needs_more_says_so_before_it_begins(made, tmp_path, command):
    line = refused("-c", AT_ONCE, *words(CALLS["lab"][command], made), folder=tmp_path)
    assert line == f"limelm: error: {command}: {NO_LAB}"


# An extra that only some options or files need


OPTIONS = {
    "a LoRA that is read": ("peft", "lora", "generate {made}/lora one"),
    "a LoRA that is trained": (
        "peft",
        "lora",
        "train attach --model kv --from {made}/llama --trains lora --data {made}/tokens --out x",
    ),
    "Parquet": ("pyarrow", "data", "data prepare {made}/text.parquet --out x"),
    "a data set": ("datasets", "data", "data prepare --dataset {made} --out x"),
    "probes": ("scikit-learn", "analysis", "analyze {made}/llama --data {made}/text.txt --only tsne --out x"),
    "tasks": ("lm-eval", "eval", "eval {made}/llama --tasks induction --out x"),
}


@pytest.mark.parametrize(("package", "extra", "call"), OPTIONS.values(), ids=OPTIONS)
def test_an_option_that_needs_more_says_so(made, tmp_path, package, extra, call):
    line = refused("-m", "limelm", *words(call, made), folder=tmp_path, environment=hide({package}))
    assert f"{package} is not installed; install it with: pip install 'limelm[{extra}]'" in line
