"""A docstring's first line makes sense in a tooltip, without the name above it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import limelm

ROOT = Path(limelm.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A first line that begins so leans on something that is not there: on a name, on a signature, or on the line above.
FRAGMENTS = re.compile(
    r"(All of (it|them)|Also|And|Around|As|Because|Between|But|By|Called|Each once|For|From|If|In|Into|Its?|None|"
    r"Nothing|Of|Once|Only|Or|Over|Since|So|Such|That|Them|The same|Then|There|These|They|This|Those|Though|To|Unless|"
    r"Until|What|Whatever|When|Where (it|they)|Whether (it|they|that|this)|While|Who|Whoever|Whose|Which it|With|"
    r"Within|Without)\b"
)
ALLOWED = re.compile(r"This process")


def docstrings(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the lines of every docstring of a file, also of private names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield getattr(node, "name", "the module"), docstring.splitlines()


def is_fragment(line: str) -> bool:
    return FRAGMENTS.match(line) is not None and ALLOWED.match(line) is None


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_first_line_is_understood_alone(path):
    for name, (first, *rest) in docstrings(path):
        assert not is_fragment(first), f"{name}: {first}"
        assert first.endswith((".", "?")), f"{name}: a first line is a whole sentence or title, not {first!r}"
        assert not rest or not rest[0], f"{name}: a blank line follows the first"


def test_fragments_are_told_from_titles():
    for fragment in ("Of the base, where it is known.", "What it was told.", "As it is.", "None where there is none."):
        assert is_fragment(fragment)
    for title in ("Offsets of the rows.", "Askew shapes.", "A norm.", "Whether a path is a folder.", "Notes on text."):
        assert not is_fragment(title)
