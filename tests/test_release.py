"""The check-list of a release says what is left to do, on trees that are made up."""

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("yaml")

from dev import release
from dev.package import build

FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "limelm"
version = "1.2.0"
[project.optional-dependencies]
lab = []
[project.scripts]
limelm = "limelm.command:main"
[project.urls]
Repository = "https://host.example/limelm"
Documentation = "https://docs.example"
""",
    "limelm/__init__.py": "",
    "limelm/_version.py": '__version__ = "1.2.0"\n',
    "limelm/command.py": """\
import pathlib, sys

def main():
    if sys.argv[1] == "demo":
        pathlib.Path("demo").mkdir()
        pathlib.Path("demo/report.html").touch()
""",
    "CHANGELOG.md": "# Changelog\n\n## 1.2.0 (2026-12-01)\n\n## 1.1.0 (2026-11-01)\n",
    "CITATION.cff": "version: 1.2.0\ndate-released: 2026-12-01\nrepository-code: https://host.example/limelm\n",
    "README.md": "[a page](docs/page.md)\n",
    "Makefile": "lint test docs:\n\t@true\npackage:\n\tmkdir -p dist\n\ttouch dist/limelm-1.2.0-py3-none-any.whl\n",
    ".gitignore": "/dist/\n",
}


def git(root: Path, *arguments: str) -> None:
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "tag.gpgsign=false", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *own, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path) -> Path:
    """A tree that is ready for release 1.2.0."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    return tmp_path


def change(tree: Path, name: str, old: str, new: str) -> None:
    text = (tree / name).read_text()
    assert old in text
    (tree / name).write_text(text.replace(old, new))
    git(tree, "commit", "--quiet", "--all", "--message", "a change")


def said(capsys, tree: Path, *arguments: str) -> tuple[int, str]:
    code = release.main([*arguments], root=tree)
    return code, capsys.readouterr().out


def test_a_tree_that_is_ready_has_only_commands_left(tree, capsys, monkeypatch):
    monkeypatch.setitem(release.SLOW, "the wheel in an empty environment", lambda root: None)
    code, printed = said(capsys, tree)
    assert code == 0 and "to do" not in printed and printed.count("  done ") == 8
    assert printed.endswith("\n  git tag --annotate v1.2.0 --message 'limelm 1.2.0'\n  git push origin v1.2.0\n")
    git(tree, "tag", "v1.2.0")
    code, printed = said(capsys, tree)
    assert code == 0 and "git tag" not in printed and "git push origin v1.2.0" in printed


def test_quick_leaves_the_long_checks_out_and_calls_nothing_ready(tree, capsys):
    code, printed = said(capsys, tree, "--quick")
    assert code == 1 and printed.count("left out by --quick") == 3 and printed.count("  done ") == 5
    assert "git push" not in printed


@pytest.mark.parametrize(
    ("name", "old", "new", "to_do"),
    [
        ("CHANGELOG.md", "(2026-12-01)", "(unreleased)", "version and CHANGELOG.md: write "),
        ("CHANGELOG.md", " (2026-12-01)", "", "version and CHANGELOG.md: write "),
        ("CHANGELOG.md", "(2026-12-01)", "(2026-13-01)", "version and CHANGELOG.md: write "),
        ("CHANGELOG.md", "1.2.0", "1.3.0", "CHANGELOG.md begins with 1.3.0, limelm/_version.py says 1.2.0"),
        ("limelm/_version.py", "1.2.0", "1.2.1", "CITATION.cff: write version: 1.2.1 in CITATION.cff"),
        ("CITATION.cff", "2026-12-01", "2026-11-30", "CITATION.cff: write date-released: 2026-12-01 in"),
        ("CITATION.cff", "date-released: 2026-12-01\n", "", "CITATION.cff: write date-released: 2026-12-01 in"),
        ("CITATION.cff", "limelm", "elsewhere", "write repository-code: https://host.example/limelm in CITATION.cff"),
        ("pyproject.toml", "Documentation", "Paper", "addresses: write Documentation under [project.urls]"),
        ("pyproject.toml", "https://host.example/limelm", "", "addresses: write Repository under [project.urls]"),
    ],
)
def test_what_is_left_is_said(tree, capsys, name, old, new, to_do):
    change(tree, name, old, new)
    code, printed = said(capsys, tree, "--quick")
    assert code == 1 and to_do in printed and "git push" not in printed


def test_files_that_are_not_committed_are_named(tree, capsys):
    (tree / "notes.txt").touch()
    (tree / "README.md").write_text("another\n")
    assert "clean tree: commit or remove README.md, notes.txt" in said(capsys, tree, "--quick")[1]


def test_a_tag_of_another_commit_is_refused(tree, capsys):
    git(tree, "tag", "v1.2.0")
    change(tree, "README.md", "page", "other page")
    assert "tag: v1.2.0 is another commit" in said(capsys, tree, "--quick")[1]


def test_what_make_refuses_is_left_to_do(tree):
    change(tree, "Makefile", "@true", "@false")
    assert release.tests(tree) == "mend what make lint test docs says above"
    assert release.package(tree) is None


def test_the_wheel_is_tried_in_an_empty_environment(tree):
    pytest.importorskip("build")
    assert release.wheel(tree) == "dist/ has 0 wheels of 1.2.0: make package"
    assert build(tree, tree / "dist", "--wheel")[0].name == "limelm-1.2.0-py3-none-any.whl"
    assert release.wheel(tree) is None
    change(tree, "limelm/command.py", "report.html", "nothing.html")
    build(tree, tree / "dist", "--wheel")
    assert release.wheel(tree) == "mend limelm demo, which wrote no demo/report.html"
