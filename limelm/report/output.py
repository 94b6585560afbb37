"""Figures and records as files."""

import csv
import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from limelm.report.figures import STYLE

Records = list[dict[str, Any]]


def save_figure(figure: Figure, path: Path) -> bytes:
    """Write PNG and SVG; returns the SVG."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path.with_suffix(".png"), dpi=160)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    path.with_suffix(".svg").write_bytes(buffer.getvalue())
    return buffer.getvalue()


def write_csv(path: Path, records: Records) -> None:
    """One line per record; the first record names the columns."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows(records)
