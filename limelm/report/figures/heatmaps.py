"""Heatmaps: all retrieval weights (Figures 13 and 14), what layers take from each other, and their alignment."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from limelm.records import Records
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import PAGE_WIDTH, by_model, label_edges, new_panels, numbers, shown
from limelm.routing.reader import LAYER_DELTAS, REPRESENTATIONS, SUBLAYER_DELTAS

COLORS = "viridis"
UNREAD = "#d5d5d5"
CELL = 0.034  # inches below which a cell of a deep model is not seen
ROOMY, WIDEST = 3.4, 5.2  # inches of a panel: where there is room, and where cells need it
IN_ONE_ROW = 4
ROOT = 1 / 3  # deep models' weights are small
LAYERS = ("representation m", "layer r")
#: The labels of columns and rows, by what sources are.
EDGES = {
    REPRESENTATIONS: LAYERS,
    LAYER_DELTAS: ("0: embedding, m: delta of layer m - 1", "layer r"),
    SUBLAYER_DELTAS: ("0: embedding, m: delta of sublayer m - 1", "sublayer r"),
}
CHARACTER = 0.087  # inches of a letter in a panel's title
ROOT_TICKS = (0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)


def weights(records: Records, _: Palette | None = None) -> Figure:
    """Draw a model's retrieval weights, a panel per head (Figures 13, 14): a row per layer, a column per source."""
    heads: dict[int, Records] = {head: [] for head in sorted({row["head"] for row in records})}
    for row in records:
        heads[row["head"]].append(row)
    titles = [f"head {head}" for head in heads] if len(heads) > 1 else ["all heads"]
    panels = [(title, Triangle(rows, "weight")) for title, rows in zip(titles, heads.values(), strict=True)]
    label = "retrieval weight (cube-root scale)"
    return _triangles(panels, PowerNorm(ROOT, 0, 1), label, ROOT_TICKS, edges=edges(records))


def layer_mass(records: Records, _: Palette | None = None) -> Figure:
    """Draw the share that each layer takes from each representation, mean over heads, a panel per model."""
    label = "share, mean over heads (cube-root scale)"
    return _triangles(_by_model(records, "share"), PowerNorm(ROOT, 0, 1), label, ROOT_TICKS, edges=edges(records))


def absolute_mass(records: Records, _: Palette | None = None) -> Figure:
    """Draw the sum of |R| that each layer takes from each representation, mean over heads; a panel per kv model."""
    largest = max(float(np.nanmax(numbers(records, "absolute"))), np.finfo(float).tiny)
    ticks = [largest * place ** (1 / ROOT) for place in (0, 0.25, 0.5, 0.75, 1)]  # evenly spaced on the bar
    panels = _by_model(records, "absolute")
    return _triangles(panels, PowerNorm(ROOT, 0, largest), "sum of |R| (cube-root scale)", ticks, ".2g")


def same_head_share(records: Records, _: Palette | None = None) -> Figure:
    """Draw the part of the absolute mass that stays in the same head; a panel per kv model."""
    return _triangles(_by_model(records, "same_head_share"), Normalize(0, 1), "part from the same head")


def cka(records: Records, _: Palette | None = None) -> Figure:
    """Draw the CKA of all representations of a model with each other, a panel per model."""
    panels = [(model, Triangle(rows, "cka", "other")) for model, rows in by_model(records)]
    return _triangles(panels, Normalize(0, 1), "CKA", edges=("representation", "representation"))


class Triangle:
    """Values by layer and source, or another column; NaN where a layer does not read a source."""

    def __init__(self, rows: Records, key: str, column: str = "source"):
        self.first = min(row["layer"] for row in rows)
        self.last = max(row["layer"] for row in rows)
        self.values = np.full((self.last - self.first + 1, self.last + 1), np.nan)
        for row, value in zip(rows, numbers(rows, key), strict=True):
            self.values[row["layer"] - self.first, row[column]] = value
        layers = np.arange(self.first, self.last + 1)
        self.unread = np.isnan(self.values) & (np.arange(self.last + 1) <= layers[:, None])

    def draw(self, axes: Axes, norm: Normalize, colors: str = COLORS) -> AxesImage:
        """Draw an image whose ticks are layers and sources."""
        extent = (-0.5, self.last + 0.5, self.last + 0.5, self.first - 0.5)
        place: dict[str, Any] = {"extent": extent, "aspect": "equal", "interpolation": "none"}
        if self.unread.any():
            axes.imshow(np.where(self.unread, 0, np.nan), cmap=ListedColormap([UNREAD]), **place)
        return axes.imshow(self.values, cmap=colors, norm=norm, **place)


def edges(records: Records) -> tuple[str, str]:
    """The labels of columns and rows of weights, whose sources may be of several kinds."""
    first, *others = {row["sources_are"] for row in records}
    if not others:
        return EDGES[first]
    return "source m", "layer or sublayer r" if SUBLAYER_DELTAS in (first, *others) else "layer r"


def _by_model(records: Records, key: str) -> list[tuple[str, Triangle]]:
    return [(model, Triangle(rows, key)) for model, rows in by_model(records)]


def _triangles(
    panels: list[tuple[str, Triangle]],
    norm: Normalize,
    label: str,
    ticks: Sequence[float] = (),
    form: str = "g",
    edges: tuple[str, str] = LAYERS,
) -> Figure:
    """Draw a panel for each title and triangle; rows are layers and columns are sources."""
    titles, triangles = zip(*panels, strict=True)
    with new_heatmaps(titles, max(triangle.last for triangle in triangles) + 1) as (figure, grid):
        images = [triangle.draw(axes, norm) for axes, triangle in zip(grid, triangles, strict=True)]
        label_edges(grid, *edges)
        if any(triangle.unread.any() for triangle in triangles):
            figure.legend(handles=[Patch(color=UNREAD, label="not read")], loc="outside lower center")
    bar = draw_bar(figure, images, label)
    if ticks:
        bar.set_ticks(ticks, labels=[f"{tick:{form}}" for tick in ticks])
    return figure


@contextmanager
def new_heatmaps(titles: Sequence[str], cells: int, columns: int | None = None) -> Iterator[tuple[Figure, list[Axes]]]:
    """Make a figure with a square panel for each title, large enough for so many cells along a side.

    Args:
        titles: as they are in records; they are broken into lines as wide as a panel, and where they have a line break.
        columns: panels in a row, where that many fit; None chooses.
    """
    width = PAGE_WIDTH - 0.5
    if columns is None:
        columns = len(titles) if len(titles) <= IN_ONE_ROW else math.ceil(math.sqrt(2 * len(titles)))
    columns = max(1, min(columns, int(width / min(CELL * cells, WIDEST))))
    side = min(max(CELL * cells, ROOMY), width / columns)
    fitting = min(24, int(side / CHARACTER))
    titles = ["\n".join(shown(line, fitting) for line in title.split("\n")) for title in titles]
    height = side + 0.18 * max(title.count("\n") for title in titles)
    with new_panels(len(titles), (side, height), columns, margin=(0.5, 1)) as (figure, panels):
        for axes, title in zip(panels, titles, strict=True):
            axes.set_title(title)
            axes.grid(False)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(max(3, int(1.8 * side)), integer=True, min_n_ticks=1))
        yield figure, panels


def draw_bar(figure: Figure, images: list[AxesImage], label: str) -> Colorbar:
    """Draw one color bar above all panels."""
    axes = [image.axes for image in images]
    width = min(1, 5 / figure.get_figwidth())  # five inches
    bar = figure.colorbar(images[0], ax=axes, label=label, location="top", shrink=width, aspect=40, pad=0.02)
    bar.outline.set_visible(False)
    return bar
