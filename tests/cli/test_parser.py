import argparse
import os

import pytest

from limelm.cli import main
from limelm.cli.data import PLAIN_PRESET, PRESET_NAMES
from limelm.cli.main import make_parser
from limelm.cli.parser import LONGEST_ARGUMENT
from limelm.cli.types import any_text
from limelm.data.presets import PRESETS

_, PARSERS = make_parser()
VALUES = [
    (command, action)
    for command, parser in PARSERS.items()
    for action in parser._actions
    if action.nargs != 0 and not isinstance(action, argparse._SubParsersAction)
]


def refusal(capsys, arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and len(error.splitlines()) == 1
    return error


def call(command: str, action: argparse.Action, value: str) -> list[str]:
    """A call with this value, and some value for whatever else has to be given."""
    arguments = command.split()
    for other in PARSERS[command]._actions:
        given = value if other.dest == action.dest else "."
        if other.option_strings and (other.required or given is value):
            arguments.append(f"{other.option_strings[-1]}={given}")
        elif not other.option_strings and (other.nargs not in ("?", "*") or given is value):
            arguments.append(given)
    return arguments


@pytest.mark.parametrize("value", ["", "  ", "x" * (LONGEST_ARGUMENT + 1)], ids=["empty", "blank", "overlong"])
@pytest.mark.parametrize(("command", "action"), VALUES, ids=[f"{c} {a.dest}" for c, a in VALUES])
def test_no_argument_takes_an_empty_or_overlong_value(capsys, command, action, value):
    if action.dest in ("prompt", "text"):
        assert action.type is any_text  # texts that models read may be anything
        return
    line = refusal(capsys, call(command, action, value))
    assert ("is empty" if not value.strip() else "characters; at most") in line
    assert (action.option_strings or [action.metavar])[0] in line


FLOATS = [(command, action) for command, action in VALUES if action.type.__name__ in ("float", "_positive", "_share")]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(("command", "action"), FLOATS, ids=[f"{c} {a.dest}" for c, a in FLOATS])
def test_no_number_is_infinite(capsys, command, action, value):
    assert action.option_strings[-1] in refusal(capsys, call(command, action, value))


def test_a_field_of_a_recipe_is_not_empty(capsys):
    assert "--base: is empty" in refusal(capsys, ["train", "tiny", "--model", "static", "--out", "o", "--base", ""])
    assert "--base: is empty" in refusal(capsys, ["plan", "tiny", "--model", "static", "--base="])


def test_an_argument_that_is_no_text_in_this_locale_is_named(capsys):
    argument = os.fsdecode(b"caf\xe9") if os.fsencode("é") != b"\xe9" else "\udce9"
    assert "not UTF-8 text in this locale" in refusal(capsys, ["generate", "x", argument])
    assert "not UTF-8 text in this locale" in refusal(capsys, ["train", "tiny", "--model", "static", "--out", argument])


def test_presets_are_those_of_the_data():
    assert set(PRESETS) == set(PRESET_NAMES) and PLAIN_PRESET in PRESETS


@pytest.mark.parametrize("command", ["", "data", *PARSERS])
def test_help_fits_a_window_of_80_columns(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    text = capsys.readouterr().out
    assert "examples:" in text or command not in PARSERS
    assert "help==SUPPRESS" not in text and "None" not in text
    assert [line for line in text.splitlines() if len(line) > 80] == []


def test_a_long_example_stays_a_command_to_copy(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    wide = " ".join(capsys.readouterr().out.replace(" \\\n", " ").split())
    assert "torchrun --nproc-per-node 8 -m limelm train paper-1.2b --out static --data tokens --model static" in wide
