"""What README.md and docs/start.md tell people to type is right: Python runs, commands come in an order that works."""

import re
import shlex
import tomllib
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from tests.commands import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
START = (ROOT / "docs/start.md").read_text(encoding="utf-8")
SHELL = [
    line.strip()
    for line in re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", README + START, flags=re.DOTALL), re.MULTILINE)
]
COMMANDS = [shlex.split(line, comments=True) for line in SHELL if line.startswith("limelm ")]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readme_is_short_and_they_have_commands_and_python():
    assert len(README.splitlines()) <= 100
    assert len(COMMANDS) >= 15 and len(PYTHON) >= 2
    assert {command[1] for command in COMMANDS} >= {"reproduce", "generate", "analyze", "eval", "train", "data"}


def test_every_command_is_taken_and_reads_what_an_earlier_one_has_made(tmp_path, monkeypatch):
    """The parser refuses folders that are not there; what a command writes is made here in its stead."""
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()  # people's own
    assert "make demo" in {line.split("#")[0].strip() for line in SHELL}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for command in COMMANDS:
        expanded = (sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in command[1:])
        arguments = [word for words in expanded for word in words]
        options = parse(arguments)
        for place in filter(None, (getattr(options, name, None) for name in ("data", "domain"))):
            for path in place if isinstance(place, list) else [place]:
                assert Path(path).is_dir(), command
        if getattr(options, "out", None):
            assert f"/{options.out}/" in ignored
            options.out.mkdir(exist_ok=True)
        if getattr(options, "out", None) == Path("demo"):
            for part in ("data", *(f"seed-42/{model}" for model in ("llama", "hc", "static", "dynamic"))):
                Path("demo", part).mkdir(parents=True, exist_ok=True)


def test_python_blocks_run_one_after_the_other_and_leave_only_ignored_folders(tmp_path, monkeypatch):
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": 64,
    }
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path / "demo/seed-42/llama")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), names)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"/{path.name}/" for path in tmp_path.iterdir()} <= set(ignored)


def test_make_and_pip_lines_name_what_there_is():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {target for line in SHELL for target in re.findall(r"^make ([a-z-]+)", line)}
    wanted = [name for line in SHELL for names in re.findall(r"'\.\[([a-z,]+)\]'", line) for name in names.split(",")]
    assert "demo" in named <= targets and set(wanted) <= extras.keys() and len(wanted) >= 4


def test_linked_files_are_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) >= 8 and all((ROOT / link).exists() for link in links)
