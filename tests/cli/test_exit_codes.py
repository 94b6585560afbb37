"""The exit codes are those that `limelm --help` and docs/command_line.md say."""

import signal
from pathlib import Path

import pytest

import limelm
from limelm.cli import main
from limelm.cli.main import EPILOG
from limelm.errors import Stopped, UserError

DOCS = (Path(limelm.__file__).parents[1] / "docs/command_line.md").read_text(encoding="utf-8")
DOCUMENTED = ("0", "1", "2", "128+n")
ENDS = {
    "1": (RuntimeError("a fault"), 1),
    "2": (UserError("wrong input"), 2),
    "128+n": (KeyboardInterrupt(), 128 + signal.SIGINT),
    "128+n, a signal": (Stopped("stopped in good order", signal.SIGTERM), 128 + signal.SIGTERM),
}


@pytest.mark.parametrize("name", ENDS)
def test_an_error_ends_with_its_code_and_one_line(name, monkeypatch, capsys):
    error, code = ENDS[name]

    def fail():
        raise error

    monkeypatch.setattr("limelm.recipes.files.recipe_names", fail)
    assert main(["recipes"]) == code
    out, err = capsys.readouterr()
    assert not out and err.startswith("limelm: error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["--version"], 0), (["recipes", "--nope"], 2), ([], 2)]
)
def test_the_parser_ends_with_its_code(arguments, code, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == code


def test_success_is_0(capsys):
    assert main(["recipes"]) == 0


def test_help_and_docs_have_the_codes():
    helped = [line.split()[0] for line in EPILOG[EPILOG.index("exit codes:") :].splitlines()[1:]]
    documented = [line.split("|")[1].strip().replace(" ", "") for line in DOCS.splitlines() if line.startswith("|")]
    assert helped == list(DOCUMENTED) and [code for code in documented if code[0].isdigit()] == list(DOCUMENTED)
