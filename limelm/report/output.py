"""Figures and records as files."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from limelm.files import write_text
from limelm.report.figures.style import STYLE

Records = list[dict[str, Any]]

DPI = 160
MARGIN = 0.06  # inches


def save_figure(figure: Figure, path: Path) -> bytes:
    """Write PNG and SVG, each beside and renamed; returns the SVG."""
    formats: dict[str, dict[str, Any]] = {"png": {}, "svg": {"metadata": {"Date": None}}}
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()  # lay it out once
        figure.set_layout_engine(None)  # it stays as it is
        drawn = figure.get_tightbbox().padded(MARGIN)  # all of it, and no more
        for name, options in formats.items():
            partial = path.with_name(f".{path.name}.{name}.partial")
            figure.savefig(partial, format=name, dpi=DPI, bbox_inches=drawn, **options)
            partial.replace(path.with_name(f"{path.name}.{name}"))
    return path.with_name(f"{path.name}.svg").read_bytes()


def write_csv(path: Path, records: Records) -> None:
    """One line per record; the first record names the columns. Lists are written as JSON."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]))
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in records)
    write_text(path, stream.getvalue())


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
