"""Each option has one name, one type, one metavar and one meaning, and stands in the same order in every command."""

import argparse
import re
import shlex

import pytest

from limelm.cli.main import COMMANDS, TAKE_FIELDS, make_parser
from limelm.cli.recipe_fields import split_fields

MAIN, PARSERS = make_parser()
INTEGER = "integer from 1 to 2147483647"

#: Every argument of every command in the order of all: its metavar, its type, and how its help begins.
TABLE = {
    "-h": (None, None, "show this help"),
    "CHECKPOINT": ("CHECKPOINT", "model_name", "a model or an adapter upon one: a folder, or a name on"),
    "PROMPT": ("PROMPT", "any_text", "text to continue"),
    "RECIPE": ("RECIPE", "recipe_name", "a recipe's name"),
    "SOURCE": ("SOURCE", "convert", "files or folders of text"),
    "--out": ("OUT", "Path", "folder of the results"),
    "--data": ("PATH", "convert", "text to read"),
    "--from": ("MODEL", "model_name", "a pretrained model: a folder, or a name on"),
    "--model": ("NAME", "str", "the recipe's model"),
    "--models": ("NAME,...", "listed", "the recipe's models"),
    "--seeds": ("N", "integer from 1 to 1000", "train every model with N seeds"),
    "--tasks": ("NAME,...", "listed", "suites and tasks"),
    "--domain": ("[NAME=]PATH", "str", "a domain"),
    "--text": ("TEXT", "any_text", "what the models read"),
    "--serve": (None, None, "serve a live page on this machine"),
    "--port": ("N", "integer from 1024 to 65535", "where a live page is served"),
    "--host": ("ADDRESS", "ip_address", "the address that a live page listens on"),
    "--name": ("NAME", "host_name", "another name of a live page"),
    "--only": ("NAME,...", "listed", "some of the analyses"),
    "--shape": ("NAME", "str", "sizes to start from"),
    "--cases": ("NAME,...", "listed", "some of the cases"),
    "--workloads": ("NAME,...", "listed", "train, forward, decode"),
    "--depths": ("N,...", "_integers", "compare the training step at these depths"),
    "--pruning": (None, None, "time top-p inference"),
    "--peers": (None, None, "measure other packages' models beside ours"),
    "--compile": (None, None, "compile all models with torch.compile"),
    "--preset": ("NAME", "str", "text and its settings"),
    "--dataset": ("NAME", "str", "Hugging Face data set"),
    "--dataset-config": ("NAME", "str", "the data set's configuration"),
    "--dataset-split": ("NAME", "str", "the data set's split"),
    "--text-field": ("NAME", "str", "field that holds the text"),
    "--tokenizer": ("NAME", "str", "tokenizer"),
    "--local-data": ("DIR", "Path", "read the tasks from"),
    "--shots": ("N", "integer from 0 to 2147483647", "examples in each prompt"),
    "--window": ("N", "integer from 2 to 2147483647", "tokens of text read at once"),
    "--stride": ("N", INTEGER, "tokens by which the window moves"),
    "--limit": ("N", INTEGER, "score only the first N"),
    "--rounds": ("N", INTEGER, "timed rounds"),
    "--num-hidden-layers": ("N", INTEGER, "decoder layers"),
    "--hidden-size": ("N", INTEGER, "size of the residual stream"),
    "--intermediate-size": ("N", INTEGER, "size of the MLP"),
    "--num-attention-heads": ("N", INTEGER, "query heads"),
    "--num-key-value-heads": ("N", INTEGER, "key/value heads"),
    "--vocab-size": ("N", INTEGER, "entries of the vocabulary"),
    "--validation-fraction": ("X", "float", "share of documents to hold out"),
    "--max-documents": ("N", INTEGER, "stop after so many documents"),
    "--processes": ("N", INTEGER, "how many tokenize"),
    "--tokens": ("N", INTEGER, "tokens of the sample"),
    "--sequence-length": ("N", INTEGER, "tokens per sequence"),
    "--batch-size": ("N", INTEGER, "sequences at once"),
    "--decode-from": ("N", INTEGER, "tokens in the cache"),
    "--alpha": ("X", "float", "of the entropy"),
    "--words": ("NAME,...", "listed", "close tokens"),
    "--occurrences": ("N", INTEGER, "of each word"),
    "--probe": ("NAME", "str", "logistic"),
    "--max-new-tokens": ("N", "integer from 1 to 1000000", "at most N tokens"),
    "--temperature": ("X", "any_float", "0: the likeliest token"),
    "--top-p": ("X", "any_float", "nucleus sampling"),
    "--gpus": ("N", INTEGER, "how many GPUs"),
    "--gpu-memory": ("X", "number up to inf", "GiB of one GPU"),
    "--tokens-per-second": ("X", "number up to inf", "of one GPU"),
    "--peak-tflops": ("X", "number up to inf", "peak TFLOP/s of one GPU"),
    "--mfu": ("X", "number up to 1", "share of the peak"),
    "--device": ("NAME", "str", "cpu, cuda or cuda:N"),
    "--dtype": ("NAME", "str", "float32 (default), bfloat16 or float16"),
    "--seed": ("N", "integer from 0 to 4294967295", "seed of random choices"),
    "--report-to": ("NAME", "str", "report to a tracker as well"),
    "--json": (None, None, "print one JSON document instead"),
    "--debug": (None, None, "show the traceback of an error"),
}
PLACES = {name: place for place, name in enumerate(TABLE)}


def arguments(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {(action.option_strings or [action.metavar])[0]: action for action in parser._actions}


@pytest.mark.parametrize("command", PARSERS)
def test_an_option_means_the_same_in_every_command(command):
    for name, action in arguments(PARSERS[command]).items():
        metavar, kind, meaning = TABLE[name]
        assert action.metavar == metavar, name
        assert getattr(action.type, "__name__", None) == kind, name
        assert action.help.startswith(meaning), name


@pytest.mark.parametrize("command", PARSERS)
def test_options_stand_in_one_order(command):
    places = [PLACES[name] for name in arguments(PARSERS[command])]
    options = [place for place, action in zip(places, PARSERS[command]._actions, strict=True) if action.option_strings]
    positional = [place for place in places if place not in options]
    assert options == sorted(options) and positional == sorted(positional)


def test_the_table_names_no_option_that_is_gone():
    assert set(TABLE) == {name for parser in PARSERS.values() for name in arguments(parser)}


def examples(command: str) -> list[list[str]]:
    """The words behind `limelm` of the examples in a command's help."""
    _, _, block = COMMANDS[command].EPILOG.partition("examples:\n")
    lines = [re.split(r"\s{3,}| > ", line.strip())[0] for line in block.splitlines() if line.startswith("  ")]
    return [shlex.split(line[line.index("limelm ") :])[1:] for line in lines]


@pytest.mark.parametrize("command", PARSERS)
def test_examples_of_the_help_are_taken(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = examples(command)
    assert calls
    for words in calls:
        assert words[: len(command.split())] == command.split()
        left, fields = words[len(command.split()) :], {}
        if command in TAKE_FIELDS:
            left, fields = split_fields(PARSERS[command], left)
        _make_inputs(tmp_path, [*left, *fields.values()])
        options = PARSERS[command].parse_args(left)
        assert all(" " not in name and not name.startswith("_") for name in fields) and options.run


def _make_inputs(folder, words: list[str]) -> None:
    """Make what the example reads: whatever looks like a path."""
    for word in words:
        path = folder / word.rpartition("=")[2]
        if word.endswith((".toml", ".txt", ".gz", ".jsonl")):
            path.touch()
        elif not word.startswith("-") and len(word) < 100:
            path.mkdir(parents=True, exist_ok=True)
