"""All long work shows the same kind of bar."""

import ast
import io
from pathlib import Path

import pytest
from tqdm import tqdm

import limelm
from limelm.progress import progress_bar
from limelm.training.callbacks import StepBar

ROOT = Path(limelm.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def bars_made_in(path: Path) -> list[int]:
    """The lines where a file makes a bar by itself."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [node.lineno for node in calls if getattr(node.func, "id", "") in ("tqdm", "trange", "StepBar")]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_nobody_makes_a_bar_of_another_style(path):
    assert bars_made_in(path) == []


def test_a_bar_of_another_style_would_be_found(tmp_path):
    (tmp_path / "other.py").write_text("for batch in tqdm(batches): pass\n")
    assert bars_made_in(tmp_path / "other.py") == [1]


@pytest.mark.parametrize("kind", [tqdm, StepBar])
@pytest.mark.parametrize("stays", [False, True])
def test_a_bar_counts_and_leaves_its_line_only_if_it_stays(kind, stays):
    stream = io.StringIO()
    with progress_bar("work", "item", total=3, stays=stays, kind=kind, file=stream, ncols=60, mininterval=0) as bar:
        bar.update(3)
    assert "work" in stream.getvalue() and "3/3" in stream.getvalue()
    assert stream.getvalue().endswith("\n") == stays


def test_a_bar_hands_on_what_it_counts():
    assert list(progress_bar("work", "item", [1, 2], file=io.StringIO())) == [1, 2]
