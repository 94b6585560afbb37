"""What all figures share: colours and marks, the house style, panels, axes."""

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Records = list[dict[str, Any]]

# Okabe & Ito's colours, which colour-blind readers tell apart.
PALETTE = ("#4d4d4d", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
REFERENCE = "#999999"
PAGE_WIDTH = 11.6  # inches at which a figure fills the page
MARKS_PER_LINE = 20
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#8a8a8a",
    "axes.labelcolor": "#222222",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.formatter.use_mathtext": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "limelm",
}


class Palette:
    """One colour and marker per model, the same in every figure; beyond seven, colours return with other markers."""

    def __init__(self, models: list[str]):
        self.places = {model: place for place, model in enumerate(models)}

    def __getitem__(self, model: str) -> str:
        return PALETTE[self.places[model] % len(PALETTE)]

    def marker(self, model: str) -> str:
        """The model's marker."""
        turn, place = divmod(self.places[model], len(MARKERS))
        return MARKERS[(place + turn) % len(MARKERS)]

    def line(self, model: str, points: int) -> dict[str, Any]:
        """How a line through so many points is drawn."""
        return {
            "color": self[model],
            "marker": self.marker(model),
            "markersize": 6,
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
            "markevery": math.ceil(points / MARKS_PER_LINE),
        }


@contextmanager
def new_figure(*shape: int, figsize: tuple[float, float], **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure in the house style. No pyplot: the reader's own backend and figures are left alone."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=figsize, layout="constrained")
        yield figure, figure.subplots(*shape, **options)


@contextmanager
def new_panels(
    count: int, panel: tuple[float, float], columns: int, margin: tuple[float, float] = (0.6, 0.3), **options: Any
) -> Iterator[tuple[Figure, list[Any]]]:
    """A figure with so many panels, in even rows of at most `columns`.

    Args:
        panel: width and height of each in inches; narrower where the page would overflow.
        margin: what is added to the width and to the height.
    """
    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)  # rows of about the same length
    size = (min(PAGE_WIDTH, margin[0] + columns * panel[0]), margin[1] + rows * panel[1])
    with new_figure(rows, columns, figsize=size, squeeze=False, **options) as (figure, grid):
        panels = list(grid.flat)
        for unused in panels[count:]:
            unused.remove()
        yield figure, panels[:count]


def by_model(records: Records) -> Iterator[tuple[str, Records]]:
    """The records of each model, in order of appearance."""
    models: dict[str, Records] = {}
    for row in records:
        models.setdefault(row["model"], []).append(row)
    yield from models.items()


def numbers(rows: Records, key: str) -> np.ndarray:
    """A column; NaN where there is no number."""
    return np.array([math.nan if row[key] is None else row[key] for row in rows], dtype=float)


def shown(label: str, width: int = 30) -> str:
    """A name as matplotlib shows it unchanged, in lines of at most so many characters."""
    literal = label.replace("$", r"\$")  # no mathematics
    if literal.startswith("_"):  # legends leave such names out
        literal = "\u200b" + literal
    return "\n".join(textwrap.wrap(literal, width)) or literal


def depth_axis(axes: Any, label: str) -> None:
    """Layers or representations along x."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def label_edges(panels: list[Any], x: str, y: str) -> None:
    """Name the axes at the left and the lower edge of a grid of panels."""
    columns = sum(axes.get_subplotspec().is_first_row() for axes in panels)
    for place, axes in enumerate(panels):
        if place % columns == 0:
            axes.set_ylabel(y)
        if place + columns >= len(panels):
            axes.set_xlabel(x)


def legend_beside(axes: Any, **options: Any) -> None:
    """A legend to the right of the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, **options)


def signed_root(values: Any) -> Any:
    """For scales on which small numbers show."""
    return np.sign(values) * np.sqrt(np.abs(values))


def signed_square(values: Any) -> Any:
    """Its inverse."""
    return np.sign(values) * np.square(values)
