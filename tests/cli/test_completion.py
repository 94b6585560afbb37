"""Shells complete commands, options, recipes and folders."""

import shutil
import subprocess
import sys

import pytest

from limelm.cli import main
from limelm.cli.completion import SHELLS, completion_script
from limelm.cli.main import COMMANDS, make_parser
from limelm.training import recipe_names


@pytest.fixture(scope="module")
def scripts():
    pytest.importorskip("shtab")
    return {shell: completion_script(make_parser()[0], shell) for shell in SHELLS}


COMPLETE = """
source ./limelm.bash
words=("$@")
COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1)); COMPREPLY=()
function=$(complete -p limelm | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function limelm "${words[-1]}" "${words[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("re", {"recipes", "reproduce"}),
        ("data p", {"prepare"}),
        ("reproduce ti", {"tiny"}),
        ("reproduce tiny deep", {"deep-32", "deep-64", "deep-128"}),
        ("train my", {"my.toml", "mymodels/"}),
        ("train tiny --mo", {"--model"}),
        ("eval my", {"mymodels"}),
        ("train attach --from my", {"mymodels"}),
        ("bench --js", {"--json"}),
    ],
)
def test_bash_offers(scripts, tmp_path, typed, offered):
    (tmp_path / "limelm.bash").write_text(scripts["bash"])
    (tmp_path / "my.toml").touch()
    (tmp_path / "my.txt").touch()
    (tmp_path / "mymodels").mkdir()
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    call = ["bash", "-c", COMPLETE, "bash", "limelm", *typed.split(" ")]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert set(done.stdout.split()) == offered, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_knows_all_commands_and_recipes(scripts, shell):
    words = set(scripts[shell].replace("(", " ").replace(")", " ").replace("`", " ").replace('"', " ").split())
    assert set(recipe_names()) <= words
    assert all(name.split()[0] in scripts[shell] for name in COMMANDS)


def test_without_the_extra_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "bash"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "shtab" in error and error.count("\n") == 1
