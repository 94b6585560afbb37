"""Figures and records as files."""

import csv
import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from limelm.files import write_text
from limelm.report.figures import STYLE

Records = list[dict[str, Any]]


def save_figure(figure: Figure, path: Path) -> bytes:
    """Write PNG and SVG, each beside and renamed; returns the SVG."""
    formats: dict[str, dict[str, Any]] = {"png": {"dpi": 160}, "svg": {"metadata": {"Date": None}}}
    for name, options in formats.items():
        partial = path.with_name(f".{path.name}.{name}.partial")
        with matplotlib.rc_context(STYLE):
            figure.savefig(partial, format=name, **options)
        partial.replace(path.with_suffix(f".{name}"))
    return path.with_suffix(".svg").read_bytes()


def write_csv(path: Path, records: Records) -> None:
    """One line per record; the first record names the columns."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    write_text(path, stream.getvalue())
