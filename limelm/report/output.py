"""Write figures and records as files."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from limelm.files import partial_of, write_text
from limelm.records import Records
from limelm.report.figures.style import STYLE
from limelm.text import has_control_characters, safe_cell

DPI = 160
MARGIN = 0.06  # inches
# In a text: a path from the root or from home, not a part of a URL or of a relative path.
_PART = r"""[^\s/\\:"'<>|*?,;()]"""
PATH = re.compile(rf"(?<![\w.~:/\\-])(?:~|[A-Za-z]:)?[/\\](?:{_PART}+[/\\])+(?P<name>{_PART}*)")


def save_figure(figure: Figure, path: Path) -> bytes:
    """Write a figure as PNG and SVG, never half-written; returns the SVG."""
    formats: dict[str, dict[str, Any]] = {"png": {}, "svg": {"metadata": {"Date": None}}}
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()  # lay it out once
        figure.set_layout_engine(None)  # it stays as it is
        drawn = figure.get_tightbbox().padded(MARGIN)  # all of it, and no more
        drawings = {}
        for name, options in formats.items():
            stream = io.BytesIO()
            figure.savefig(stream, format=name, dpi=DPI, bbox_inches=drawn, **options)
            drawings[name] = stream.getvalue()
            _write_bytes(path.with_name(f"{path.name}.{name}"), drawings[name])
    return drawings["svg"]


def _write_bytes(path: Path, content: bytes) -> None:
    partial = partial_of(path)
    partial.unlink(missing_ok=True)  # what a kill left, or a link that somebody put there
    with partial.open("xb") as stream:
        stream.write(content)
    partial.replace(path)


def write_csv(path: Path, records: Records) -> None:
    """Write a CSV, one line per record; the first record names the columns, lists are written as JSON."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]))
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in records)
    write_text(path, stream.getvalue())


def write_json(path: Path, content: Any) -> None:
    """Write facts and numbers as JSON, without paths of this machine (see `published`)."""
    write_text(path, _as_json(published(content), indent=1) + "\n")


def published(content: Any) -> Any:
    """Make plain values publishable: absolute paths are cut down to their last name, wherever they are."""
    if isinstance(content, dict):
        return {published(key): published(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [published(value) for value in content]
    if not isinstance(content, str):
        return content
    if Path(content).is_absolute() and not re.search(r"[:\n]|.$(?<=/)", content):  # a path that may hold spaces
        return Path(content).name
    return PATH.sub(lambda match: match["name"], content)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return _as_json(value)
    return safe_cell(value) if isinstance(value, str) else value


def _as_json(content: Any, indent: int | None = None) -> str:
    """Write JSON with letters as they are, or with escapes only if a control character is among them."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    has_controls = has_control_characters(text.replace("\n", ""))
    return json.dumps(content, indent=indent) if has_controls else text
