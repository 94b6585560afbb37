"""Names are spelled as PyTorch and transformers spell theirs: in code, in files that are written, and of files."""

import ast
import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import limelm

PACKAGE = Path(limelm.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

BRITISH = re.compile(
    r"(normal|summar|standard|token|initial|random|serial|optim|util|quant|recogn|parametr|material|organ|general|"
    r"real|minim|maxim|special|visual|synchron|memor|penal|categor|local|factor|custom|priorit|sanit)is(e|ing|ation)|"
    r"analys(e[dr]?(?!s)|ing)|(neighb|col|fav|behavi|hon|lab)our|(?<![a-z])cent(re|red)(?![a-z])|(?<![a-z])grey(?![a-z])|"
    r"(label|model|cancel)l(ed|ing)|artefact|judgement|licence|catalogue",
    re.IGNORECASE,
)
KEY = re.compile(r"[A-Za-z_][\w-]*")  # a string that may be a key, a column, or the name of an option or a file


def names(path: Path) -> Iterator[str]:
    """Yield the names in a source file, and its strings that may be names in files."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(text)) if KEY.fullmatch(text.lstrip("-")):
                yield text


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(PACKAGE)) for path in SOURCES])
def test_names_in_code_are_american(path):
    assert not [name for name in names(path) if BRITISH.search(name)]


def test_files_are_named_so_too():
    files = [
        path for folder in ("limelm", "tests", "docs", "examples", "results") for path in (ROOT / folder).rglob("*")
    ]
    assert len(files) > 300
    assert not [path.name for path in files if BRITISH.search(path.stem) and path.suffix != ".pyc"]


def test_columns_of_results_are_american():
    tables = sorted((ROOT / "results").rglob("*.csv"))
    assert tables
    for table in tables:
        with table.open(encoding="utf-8", newline="") as stream:
            assert not [column for column in next(csv.reader(stream)) if BRITISH.search(column)], table.name


@pytest.mark.parametrize(
    "name", ["normalised_entropy", "NeighbourCosine", "tokenise", "analyse", "colour_of", "grey", "centre", "labelled"]
)
def test_british_names_are_found(name):
    assert BRITISH.search(name)


@pytest.mark.parametrize(
    "name", ["precise", "analysis", "analyses", "headwise", "noise", "promise", "our_types", "hours", "sources", "four"]
)
def test_american_names_are_left_alone(name):
    assert not BRITISH.search(name)
