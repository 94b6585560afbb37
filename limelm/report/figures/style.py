"""Shared parts of all figures: style, panels, axes, names, and marks that make a single point visible."""

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from limelm.evaluation.statistics import t_interval
from limelm.records import Records
from limelm.report.captions import TEMPLATES
from limelm.text import printable

REFERENCE = "#999999"
PAGE_WIDTH = 11.6  # inches at which a figure fills the page
WIDE = (PAGE_WIDTH, 4.4)
LEGEND_LINE = 0.21  # inches
STYLE = matplotlib.rc_params_from_file(TEMPLATES / "figures.mplstyle", use_default_template=False)


@contextmanager
def new_figure(*shape: int, figsize: tuple[float, float], **options: Any) -> Iterator[tuple[Figure, Any]]:
    """Make a figure in the house style, without pyplot: the reader's own backend and figures are left alone."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=figsize, layout="constrained")
        yield figure, figure.subplots(*shape, **options)


@contextmanager
def new_panels(
    count: int,
    panel: tuple[float | None, float],
    columns: int,
    margin: tuple[float, float] = (0.6, 0.3),
    **options: Any,
) -> Iterator[tuple[Figure, list[Any]]]:
    """Make a figure with so many panels, in even rows of at most `columns`.

    Args:
        panel: width and height of each in inches, narrower where the page would overflow; without a width the panels
            of a row share the page's.
        margin: what is added to the width and to the height.
    """
    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)  # rows of about the same length
    width = PAGE_WIDTH if panel[0] is None else min(PAGE_WIDTH, margin[0] + columns * panel[0])
    size = (width, margin[1] + rows * panel[1])
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
    """A column as numbers, with NaN for None."""
    return np.array([math.nan if row[key] is None else row[key] for row in rows], dtype=float)


def shown(label: str, width: int = 30) -> str:
    """Prepare a name for matplotlib: no control characters, no markup, lines of at most so many characters."""
    literal = printable(label).replace("$", r"\$")  # no mathematics
    if literal.startswith("_"):  # legends leave such names out
        literal = "\u200b" + literal
    return "\n".join(textwrap.wrap(literal, width)) or literal


def single_mark(points: Any) -> dict[str, Any]:
    """A marker for a line of a single point, which would not be seen without one."""
    return {"marker": "_", "markersize": 12} if len(points) == 1 else {}


def band(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str) -> None:
    """Draw a shade from `low` to `high` along `x`; at a single point, a broad line."""
    if len(x) == 1:
        axes.vlines(x, low, high, color=color, alpha=0.3, linewidth=8)
    else:
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def depth_axis(axes: Any, label: str) -> None:
    """Make x an axis of layers or representations."""
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
    """Draw a legend to the right of the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, **options)


@contextmanager
def wide_panel(x: str, y: str, is_depth: bool = True, **legend: Any) -> Iterator[tuple[Figure, Axes]]:
    """Make a figure of one panel as wide as the page, with its axes' labels and a legend beside it, as high as both."""
    with new_figure(figsize=WIDE) as (figure, axes):
        yield figure, axes
        (depth_axis if is_depth else Axes.set_xlabel)(axes, x)
        axes.set_ylabel(y)
        lines = sum(label.count("\n") + 1 for label in axes.get_legend_handles_labels()[1])
        figure.set_figheight(max(WIDE[1], 0.6 + LEGEND_LINE * lines))
        legend_beside(axes, **legend)


def draw_line(
    axes: Axes, rows: Records, x: str, y: str, look: dict[str, Any], bounds: tuple[np.ndarray, np.ndarray] | None = None
) -> None:
    """Draw column y of `rows` over column x; with a shade between `bounds`, if there are any."""
    places = numbers(rows, x)
    axes.plot(places, numbers(rows, y), **look)
    if bounds is not None:
        band(axes, places, *bounds, look["color"])


def error_band(rows: Records, y: str, error: str) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of column y, with the errors of another column to both sides; an error that is missing is none."""
    values, errors = numbers(rows, y), np.nan_to_num(numbers(rows, error))
    return values - errors, values + errors


def draw_interval(axes: Axes, place: float, values: np.ndarray, color: str, is_upright: bool) -> None:
    """Draw the mean of one value per seed, and Student's 95 % interval where there are two or more.

    Args:
        place: on the other axis.
        is_upright: whether values are heights.
    """
    bounds = t_interval(values).bounds
    middle = ([place], [values.mean()])
    axes.plot(*middle[:: 1 if is_upright else -1], "_" if is_upright else "|", color=color, ms=16, mew=2.5)
    if bounds is not None:
        line = ([place, place], bounds)
        axes.plot(*line[:: 1 if is_upright else -1], color=color, linewidth=2.5)
