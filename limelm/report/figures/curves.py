"""Curves of how representations change with depth, all models in one panel."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from limelm.records import Records
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import (
    PAGE_WIDTH,
    REFERENCE,
    WIDE,
    band,
    by_model,
    depth_axis,
    legend_beside,
    new_figure,
    numbers,
    shown,
    single_mark,
)

BEFORE_ROUTING, HIDDEN_STATES = "values before routing", "hidden states"
FAR_ABOVE_CHANCE = 0.3  # from here on the axis leaves out the chance level, which would flatten the curves


def matrix_entropy(records: Records, palette: Palette) -> Figure:
    """Draw matrix entropy per layer, with its standard error over sequences (Figures 5 and 11)."""
    return _of_states(records, palette, "entropy", "matrix entropy (nats)")


def effective_rank(records: Records, palette: Palette) -> Figure:
    """Draw effective rank per layer, with its standard error over sequences."""
    return _of_states(records, palette, "effective_rank", "effective rank")


def separability(records: Records, palette: Palette) -> Figure:
    """Draw a linear probe's accuracy per layer, with its standard deviation over folds (Figures 7 and 12)."""
    with new_figure(figsize=WIDE) as (figure, axes):
        _states(axes, records, palette, "accuracy", "deviation")
        lowest = np.nanmin(numbers(records, "accuracy") - numbers(records, "deviation"))
        limits = axes.get_ylim()
        for chance in sorted(set(numbers(records, "chance"))):
            far = lowest > chance + FAR_ABOVE_CHANCE
            axes.axhline(chance, linestyle=":", color=REFERENCE, label=f"chance: {chance:.2f}" + " (below)" * bool(far))
            if far:
                axes.set_ylim(limits)
        axes.set_ylabel("accuracy on held-out folds")
        legend_beside(axes)
    return figure


def cosine(records: Records, palette: Palette) -> Figure:
    """Draw the cosine similarity of neighboring tokens' hidden states, and of any two, per representation."""
    with new_figure(figsize=WIDE) as (figure, axes):
        for model, rows in by_model(records):
            _line(axes, rows, "neighbors", palette.line(model, len(rows)), shown(model), "standard_error")
            look = {"color": palette[model], **single_mark(rows)}
            axes.plot(numbers(rows, "layer"), numbers(rows, "any_pair"), "--", **look)
        depth_axis(axes, "representation m (0: token embedding)")
        axes.set_ylabel("mean cosine similarity")
        kinds = {"neighboring tokens": "-", "any two tokens": "--"}
        lines = [Line2D([], [], color="#222222", label=label, ls=style) for label, style in kinds.items()]
        legend_beside(axes, handles=[*axes.get_legend_handles_labels()[0], *lines])
    return figure


def logit_lens(records: Records, palette: Palette) -> Figure:
    """Draw what the head reads out of each representation: loss, divergence from the output, agreement with it."""
    panels = {
        "loss": ("next-token loss (nats)", "loss_standard_error"),
        "kl": ("KL from the output (nats)", None),
        "agreement": ("top-1 agreement with the output", None),
    }
    with new_figure(1, 3, figsize=(PAGE_WIDTH, 4)) as (figure, grid):
        for axes, (key, (label, error)) in zip(grid, panels.items(), strict=True):
            for model, rows in by_model(records):
                _line(axes, rows, key, palette.line(model, len(rows)), shown(model), error)
            depth_axis(axes, "representation m")
            axes.set_ylabel(label)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _of_states(records: Records, palette: Palette, key: str, label: str) -> Figure:
    with new_figure(figsize=WIDE) as (figure, axes):
        _states(axes, records, palette, key, "standard_error")
        axes.set_ylabel(label)
        legend_beside(axes)
    return figure


def _states(axes: Axes, records: Records, palette: Palette, key: str, error: str) -> None:
    """Draw a line per model, and a dashed one of its values before routing."""
    for model, all_rows in by_model(records):
        for states in dict.fromkeys(row["states"] for row in all_rows):
            rows = [row for row in all_rows if row["states"] == states]
            look = palette.line(model, len(rows))
            label = model
            if states == BEFORE_ROUTING:
                look |= {"linestyle": "--", "markerfacecolor": "white", "markeredgecolor": palette[model]}
                label = f"{model}, before routing"
            _line(axes, rows, key, look, shown(label), error)
    hidden = records[0]["states"] == HIDDEN_STATES
    depth_axis(axes, "representation m (0: token embedding)" if hidden else "layer r")


def _line(axes: Axes, rows: Records, key: str, look: dict[str, Any], label: str, error: str | None = None) -> None:
    """Draw a curve over the layers, with a band of its error to both sides."""
    layers, values = numbers(rows, "layer"), numbers(rows, key)
    axes.plot(layers, values, label=label, **look)
    if error is not None:
        errors = np.nan_to_num(numbers(rows, error))
        band(axes, layers, values - errors, values + errors, look["color"], 0.15)
