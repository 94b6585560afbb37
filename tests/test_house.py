"""The house: each tier imports only from those below it."""

import ast
from pathlib import Path

import pytest

import limelm

ROOT = Path(limelm.__file__).parent
# From the ground up; a tier may import from the ones before it and from itself.
TIERS = [
    {"errors", "_version", "progress", "registration", "text"},
    {"extras", "files", "records", "environment", "provenance", "tokenizers"},
    {"routing"},
    {"models"},
    {"adapters", "data"},
    {"loading", "optimization"},
    {"analysis", "evaluation"},
    {"recipes"},
    {"planning"},
    {"training"},
    {"report", "benchmark", "explorer"},
    {"cli"},
    {"__main__"},
]


def tier(module: str) -> int:
    return next(level for level, names in enumerate(TIERS) if module in names)


def imported_tiers(path: Path) -> set[str]:
    """The names directly below `limelm` that a file imports from, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        names |= {module.split(".")[1] for module in modules if module.startswith("limelm.")}
    return names


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_go_down_only(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imported_tiers(path) - {own}:
        assert tier(name) < tier(own), f"{own} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


#: Servers look a model's class up as an attribute of transformers.
ADDS_TO_ANOTHER_MODULE = ROOT / "models" / "serving.py"
#: A module of settings, which are there to be assigned.
SETTINGS = "torch._dynamo.config."


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_names_of_other_modules_are_not_replaced(path):
    tree = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imports = [alias for node in tree if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    imported = {alias.asname or alias.name.split(".")[0] for alias in imports}
    for node in tree:
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            if ast.unparse(node).startswith(SETTINGS):
                continue
            assert ast.unparse(node).split(".")[0] not in imported, ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            assert path == ADDS_TO_ANOTHER_MODULE, ast.unparse(node)


def imported_files(path: Path) -> set[Path]:
    """The files of the package that a file imports from, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            place = ROOT.parent.joinpath(*module.split("."))
            found |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file in IMPORTABLE}
    return found - {path}


IMPORTABLE = set(FILES)


def test_no_files_import_each_other():
    """A package's `__init__` aside: what stands in a folder imports it by importing its neighbors."""
    arrows = {path: {f for f in imported_files(path) if f.name != "__init__.py"} for path in FILES}
    done: set[Path] = set()

    def follow(path: Path, way: list[Path]) -> None:
        assert path not in way, " -> ".join(str(each.relative_to(ROOT)) for each in [*way[way.index(path) :], path])
        if path in done:
            return
        for other in sorted(arrows[path]):
            follow(other, [*way, path])
        done.add(path)

    for path in FILES:
        follow(path, [])
