"""Pages and docstrings point at files and names that are there."""

import importlib
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

import limelm
from tests.commands import parse

ROOT = Path(limelm.__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("examples/*.md"),
    *ROOT.glob("dev/*.md"),
    *ROOT.glob("results/**/*.md"),
]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
SOURCES = sorted((ROOT / "limelm").rglob("*.py"))
NAME = re.compile(r"`(limelm(?:\.\w+)+)`")
PATH = re.compile(r"`((?:limelm|tests)/[\w./-]*\w)`")


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_a_page_points_at_is_there(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), target
    for path in PATH.findall(text):
        assert (ROOT / path).exists(), path


def test_results_are_a_page_tables_and_figures():
    """What else a command writes it can write again; a page of results names the command."""
    found = {path.relative_to(ROOT / "results") for path in (ROOT / "results").rglob("*") if path.is_file()}
    assert len(found) > 40
    assert {path for path in found if path.name != "README.md" and path.suffix not in (".csv", ".png")} == set()
    for folder in {path.parts[0] for path in found if len(path.parts) > 1}:
        pages = list((ROOT / "results" / folder).rglob("README.md"))
        assert pages, folder
        for page in pages:
            assert re.search(r"^    (limelm|runs/|make) ?\S+", page.read_text(encoding="utf-8"), re.MULTILINE), page


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_targets_and_scripts_in_pages_are_there(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)} <= {*targets}
    for script, part in re.findall(r"runs/([\w-]+\.sh)(?: ([a-z]+)(?=[`\n]))?", text):
        assert f"\n{part}() {{" in (ROOT / "runs" / script).read_text(encoding="utf-8") or not part, (script, part)


def commands_of(page: Path) -> list[list[str]]:
    """The arguments of the limelm commands that a page shows in lines of their own."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL).replace("\\\n", " ")
    lines = re.findall(r"^    (?:.* -m )?limelm (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_command_in_a_page_is_taken(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in commands_of(page):
        arguments = [word.replace("*", "each") for word in command]
        read = [value for option, value in pairwise(arguments) if option in ("--data", "--domain", "--local-data")]
        for word in [*read, *(word for word in arguments if "/" in word)]:  # what it reads is there
            (tmp_path / word.strip("/")).mkdir(parents=True, exist_ok=True)
        parse(arguments)


def test_pages_have_commands():
    assert sum(len(commands_of(page)) for page in PAGES) > 40


def test_readers_find_the_glossary():
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "docs/glossary.md" in (ROOT / page).read_text(encoding="utf-8"), page


@pytest.mark.parametrize("file", [*PAGES, *SOURCES], ids=[str(file.relative_to(ROOT)) for file in [*PAGES, *SOURCES]])
def test_names_in_prose_exist(file):
    for name in NAME.findall(file.read_text(encoding="utf-8")):
        assert name.endswith(".TYPE") or is_there(name), name


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or what a module holds."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_names_that_are_gone_are_found():
    assert is_there("limelm.files.write_text") and is_there("limelm.models.lime")
    assert not is_there("limelm.files.write_nothing") and not is_there("limelm.nowhere.write_text")
