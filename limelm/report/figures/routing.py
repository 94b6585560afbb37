"""Curves of what routers retrieve: Figures 2, 3, 4, 9 and 10."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from limelm.records import Records
from limelm.report.figures import style
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import by_model, numbers, shown
from limelm.routing.reader import REPRESENTATIONS

UNIFORM = "no preference (uniform)"
MOST_IN_A_PANEL, TITLE_WIDTH = 10, 28  # lines, and characters
#: Colors of Figure 9 in the paper.
GREEN, ORANGE = "#009e73", "#d55e00"


def mean_retrieval(records: Records, palette: Palette) -> Figure:
    """Draw the mean retrieval weight of each representation over the layers that read it (Figure 2).

    All models are in one panel, or where these are more than `MOST_IN_A_PANEL`, each has its own.
    """
    is_plain = {row["sources_are"] for row in records} == {REPRESENTATIONS}
    source = f"{'representation' if is_plain else 'source'} m"
    models = list(by_model(records))
    if len(models) > MOST_IN_A_PANEL:
        return _each_mean_retrieval(models, palette, source)
    with style.wide_panel(f"{source} (0: token embedding)", "mean weight in layers r ≥ m") as (figure, axes):
        for model, rows in models:
            style.draw_line(axes, rows, "source", "mean_weight", palette.line(model, len(rows)))
        _draw_uniform(axes, records, "source", palette)
        axes.set_ylim(bottom=0)
    return figure


def _each_mean_retrieval(models: Sequence[tuple[str, Records]], palette: Palette, source: str) -> Figure:
    with style.new_panels(len(models), (None, 1.9), 4, sharey=True) as (figure, panels):
        for axes, (model, rows) in zip(panels, models, strict=True):
            style.draw_line(axes, rows, "source", "mean_weight", {**palette.line(model, len(rows)), "linestyle": "-"})
            _draw_uniform(axes, rows, "source", palette)
            axes.set_title(shown(model, TITLE_WIDTH), fontsize="small")
            style.depth_axis(axes, "")
        style.label_edges(panels, source, "mean weight")
        panels[0].set_ylim(bottom=0)
    return figure


def self_retrieval(records: Records, palette: Palette) -> Figure:
    """Draw each head's weight on its layer's own input, a panel per model (Figure 3)."""
    models = list(by_model(records))
    with style.new_panels(len(models), (None, 3), 3, sharey=True) as (figure, panels):
        for axes, (model, rows) in zip(panels, models, strict=True):
            layers = np.unique(numbers(rows, "layer"))
            heads = sorted({row["head"] for row in rows})
            weights = np.array([[row["weight"] for row in rows if row["head"] == head] for head in heads])
            single = style.single_mark(layers)
            axes.plot(layers, weights.T, color=palette[model], alpha=0.35, linewidth=1, **single)
            axes.plot(layers, weights.mean(axis=0), linewidth=2, **palette.line(model, len(layers)))
            uniform = [row["uniform"] for row in rows if row["head"] == heads[0]]
            axes.plot(layers, uniform, "--", color=style.REFERENCE, linewidth=1, **single)
            axes.set_title(shown(model))
            style.depth_axis(axes, "layer r")
        style.label_edges(panels, "layer r", "weight on own input")
        panels[0].set_ylim(bottom=0)
    return figure


def self_retrieval_by_layer(records: Records, palette: Palette) -> Figure:
    """Draw the weight on the layer's own input, mean over heads, all models in one panel (Figure 10)."""
    with style.wide_panel("layer r", "weight on own input, mean over heads") as (figure, axes):
        for model, rows in by_model(records):
            style.draw_line(axes, rows, "layer", "weight", palette.line(model, len(rows)))
        _draw_uniform(axes, records, "layer", palette)
        axes.set_ylim(bottom=0)
    return figure


def expected_source(records: Records, palette: Palette) -> Figure:
    """Draw the expected retrieved representation per layer, with the range over heads (Figure 4)."""
    with style.wide_panel("layer r", "expected representation") as (figure, axes):
        for model, rows in by_model(records):
            heads = numbers(rows, "lowest_head"), numbers(rows, "highest_head")
            style.draw_line(axes, rows, "layer", "expected_source", palette.line(model, len(rows)), heads)
        layers = np.unique(numbers(records, "layer"))
        axes.plot(layers, layers, ":", color="#666666", label="own input only (Llama)", **style.single_mark(layers))
        _draw_uniform(axes, records, "layer", palette)
    return figure


def _draw_uniform(axes: Axes, records: Records, x: str, palette: Palette) -> None:
    """Draw what no preference would give: one line where all models agree, else a thin one in each model's color."""
    for_all = {row[x]: row["uniform"] for row in sorted(records, key=lambda row: row[x])}
    if all(math.isclose(row["uniform"], for_all[row[x]]) for row in records):
        mark = style.single_mark(for_all)
        axes.plot([*for_all], [*for_all.values()], "--", color=style.REFERENCE, label=UNIFORM, **mark)
        return
    for model, rows in by_model(records):
        look = {"ls": "--", "lw": 1, "color": palette[model], **style.single_mark(rows)}
        style.draw_line(axes, rows, x, "uniform", look)
    axes.plot([], [], "--", color=style.REFERENCE, lw=1, label=UNIFORM)


def retrieval_under_top_p(records: Records, _: Palette | None = None) -> Figure:
    """Draw mean retrieval of representations and mean self-retrieval of layers, a panel per model (Figure 9)."""
    models = list(by_model(records))
    curves = {  # the colors are the paper's
        "mean_retrieval": (GREEN, "o", "representation n, from subsequent layers"),
        "self_retrieval": (ORANGE, "s", "layer n, its own input (self-retrieval)"),
    }
    roots = (lambda values: np.sign(values) * np.sqrt(np.abs(values)), lambda roots: np.sign(roots) * np.square(roots))
    with style.new_panels(len(models), (None, 2.9), 1, margin=(0, 0.9)) as (figure, panels):
        for axes, (model, rows) in zip(panels, models, strict=True):
            for key, (color, marker, label) in curves.items():
                look = {"marker": marker, "markersize": 4} if len(rows) <= 40 else {}
                drawn = [row for row in rows if row[key] is not None]
                style.draw_line(axes, drawn, "depth", key, {"color": color, "label": label, **look})
            axes.set_title(shown(model, 60))
            axes.set_ylabel("mean weight (root scale)")
            axes.set_yscale("function", functions=roots)  # deep models' means are small
            axes.set_yticks([0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1])
            axes.set_ylim(0, 1.05 * max(np.nanmax(numbers(rows, key), initial=0.1) for key in curves))
            style.depth_axis(axes, "depth n (representation 0: token embedding)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
