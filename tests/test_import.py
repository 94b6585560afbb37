"""Importing limelm is cheap, and registers the models whatever is imported first."""

import subprocess
import sys

import pytest

import limelm
from limelm.registration import CLASSES

HEAVY = ("torch", "transformers", "numpy", "matplotlib", "peft", "tokenizers")


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def imported_by(code: str, *arguments: str) -> tuple[set[str], str]:
    """The modules that are there at the end, and what stood on stderr."""
    report = "import atexit, sys; atexit.register(lambda: print('\\n' + ' '.join(sys.modules)))\n"
    finished = run(report + code, *arguments)
    return set(finished.stdout.splitlines()[-1].split()), finished.stderr


def test_importing_limelm_imports_none_of_what_it_needs():
    modules, _ = imported_by("import limelm")
    assert "limelm" in modules and not modules & set(HEAVY)
    own = {name for name in modules if name.startswith("limelm")}
    assert own == {"limelm", "limelm._version", "limelm.registration"}


COMMAND = "import sys; from limelm.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        [],
        ["frobnicate"],
        *([command, "--help"] for command in ("train", "reproduce", "plan", "convert", "eval", "analyze", "bench")),
        ["data", "prepare", "--help"],
        ["generate", "--help"],
        ["generate", "x"],
        ["train", "tiny", "--model", "static", "--steps", "1"],
        ["train", "tiny", "--model", "static", "--out", "o", "--stepz"],
        ["reproduce", "tiny", "--out", ""],
        ["eval", "x", "--out", "o", "--limit", "0"],
        ["bench", "--out", "o", "--dtype", "int8"],
        ["data", "prepare", "--out", "o", "--preset", "pile"],
        ["analyze", "x", "--out", "o"],
        # What is not there
        ["generate", "./nowhere", "x"],
        ["convert", "./nowhere", "--out", "o"],
        ["eval", "./nowhere", "--tasks", "x", "--out", "o"],
        ["analyze", "./nowhere", "--data", "x", "--out", "o"],
        ["train", "tiny", "--model", "static", "--data", "nowhere", "--out", "o"],
        ["reproduce", "./nowhere.toml", "--out", "o"],
        ["data", "prepare", "nowhere", "--out", "o"],
    ],
    ids=" ".join,
)
def test_help_and_errors_of_arguments_import_neither_torch_nor_transformers(arguments):
    modules, error = imported_by(COMMAND, *arguments)
    assert not modules & set(HEAVY)
    if not {"--help", "--version"} & set(arguments):
        assert len(error.splitlines()) == 1 and ": error: " in error


ORDERS = {
    "limelm first": "import limelm; from transformers import AutoConfig, AutoModel, AutoModelForCausalLM",
    "the Auto classes first": "from transformers import AutoConfig, AutoModel, AutoModelForCausalLM; import limelm",
    "configurations, limelm, models": (
        "from transformers import AutoConfig; import limelm; from transformers import AutoModel, AutoModelForCausalLM"
    ),
    "the Trainer between": (
        "import limelm, transformers.trainer; from transformers import AutoConfig, AutoModel, AutoModelForCausalLM"
    ),
    "the models first": "import limelm.models; from transformers import AutoConfig, AutoModel, AutoModelForCausalLM",
}
BUILD = """
sizes = dict(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
for model_type in limelm.registration.MODELS:
    config = AutoConfig.for_model(model_type, **sizes)
    for auto in (AutoModel, AutoModelForCausalLM):
        made = type(auto.from_config(config))
        assert made.__module__.startswith(f"limelm.models.{model_type}") and made is getattr(limelm, made.__name__)
        print(type(config).__name__, made.__name__)
    assert type(config) in AutoModelForCausalLM._model_mapping

"""


@pytest.mark.parametrize("order", ORDERS)
def test_the_auto_classes_know_the_models(order):
    finished = run(f"import sys; {ORDERS[order]}\n{BUILD}")
    expected = [f"{config} {name}" for config, *names in CLASSES.values() for name in names]
    assert finished.stdout.splitlines() == expected, finished.stderr


def test_all_that_is_exported_is_there():
    assert set(limelm.__all__) <= set(dir(limelm))
    for name in limelm.__all__:
        assert getattr(limelm, name) is not None
    assert limelm.models.LimeConfig is limelm.LimeConfig
    with pytest.raises(AttributeError, match="module 'limelm' has no attribute 'LimeConfg'"):
        limelm.LimeConfg  # noqa: B018


def test_looking_a_name_up_in_tables_does_not_import_the_models():
    code = "import sys, limelm; from transformers.models.auto import configuration_auto as c; " + (
        "print(c.CONFIG_MAPPING_NAMES['lime'], 'limelm.models' in sys.modules)"
    )
    assert run(code).stdout.split() == ["LimeConfig", "False"]
