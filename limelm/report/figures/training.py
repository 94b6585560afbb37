"""Figures of a training: losses, and how the routers come to choose."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from limelm.evaluation.statistics import t_interval
from limelm.records import Records
from limelm.report.figures import style
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import by_model, numbers, shown

FLOPS = "training FLOPs (3 × forward)"
MOST_SHADED = 8  # models, from which on shades would hide each other


def loss_against_flops(curves: Records, palette: Palette) -> Figure:
    """Draw the training and held-out loss of one seed against training FLOPs (Figure 1).

    Args:
        curves: per model and step `train_flops`, `loss`, `smoothed_loss`, and `eval_loss` where it was measured.
    """
    is_smoothed = any(row["smoothed_loss"] != row["loss"] for row in curves)
    title = f"lines: training{', smoothed' * is_smoothed}\nmarks: held out"
    legend = {"title": title, "title_fontsize": 8, "alignment": "left"}
    with style.wide_panel(FLOPS, "loss (nats per token)", is_depth=False, **legend) as (figure, axes):
        for model, rows in by_model(curves):
            _draw_training(axes, rows, palette.line(model, len(rows)) | {"linewidth": 1.8})
    return figure


def _draw_training(axes: Axes, rows: Records, look: dict[str, Any]) -> None:
    unnamed = {key: value for key, value in look.items() if key != "label"}
    x, single = numbers(rows, "train_flops"), style.single_mark(rows)
    axes.plot(x, numbers(rows, "loss"), color=look["color"], alpha=0.18, linewidth=0.8, **single)
    axes.plot(x, numbers(rows, "smoothed_loss"), **unnamed | {"marker": ""} | single)
    evaluated = [row for row in rows if row["eval_loss"] is not None]
    marks = unnamed | {"linestyle": "", "markevery": 1}
    axes.plot(numbers(evaluated, "train_flops"), numbers(evaluated, "eval_loss"), **marks)
    axes.plot([], [], **look)  # the legend shows both


def loss_over_seeds(curves: Records, palette: Palette) -> Figure:
    """Draw held-out loss against training FLOPs: mean over seeds, one standard deviation, and every seed.

    Of more than `MOST_SHADED` models only the means are drawn.

    Args:
        curves: per model, seed and evaluation `train_flops` and `eval_loss`.
    """
    is_shaded = len({row["model"] for row in curves}) <= MOST_SHADED
    with style.wide_panel(FLOPS, "held-out loss (nats per token)", is_depth=False) as (figure, axes):
        for model, rows in by_model(curves):
            seeds = list(dict.fromkeys(row["seed"] for row in rows))
            losses = np.array([[row["eval_loss"] for row in rows if row["seed"] == seed] for seed in seeds])
            flops = np.array([row["train_flops"] for row in rows if row["seed"] == seeds[0]])
            mean, deviation = losses.mean(axis=0), losses.std(axis=0, ddof=1)
            if is_shaded:
                axes.plot(flops, losses.T, color=palette[model], alpha=0.25, linewidth=0.7, **style.single_mark(flops))
                style.band(axes, flops, mean - deviation, mean + deviation, palette[model])
            axes.plot(flops, mean, linewidth=1.8 if is_shaded else 1.2, **palette.line(model, len(flops)))
    return figure


def loss_over_depth(records: Records, palette: Palette) -> Figure:
    """Draw held-out loss, and its difference from the baseline's, against the number of layers (Figure 8).

    Every seed has a short dash, a mark is their mean, and an upright bar Student's 95 % interval of it.

    Args:
        records: per model, depth and seed `layers`, `eval_loss`, and `difference`, which is None for the baseline.
    """
    depths = sorted({row["layers"] for row in records})
    baseline = next(row["model"] for row in records if row["difference"] is None)
    panels = {"eval_loss": "held-out loss (nats per token)", "difference": f"difference from {shown(baseline)}'s"}
    measured = {key: [row for row in records if row[key] is not None] for key in panels}
    shape = (1, sum(map(bool, measured.values())))  # a baseline alone has no differences
    with style.new_figure(*shape, figsize=(style.PAGE_WIDTH, 4.4), squeeze=False) as (figure, (grid,)):
        for axes, (key, label) in zip(grid, panels.items(), strict=False):
            for model, rows in by_model(measured[key]):
                _draw_depths(axes, rows, key, palette.line(model, len(depths)))
            axes.set_xscale("log", base=2)
            axes.set_xticks(depths, [str(depth) for depth in depths])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("layers")
            axes.set_ylabel(label)
            if key == "difference":
                axes.axhline(0, color=style.REFERENCE, linestyle="--", linewidth=1)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw_depths(axes: Axes, rows: Records, key: str, look: dict[str, Any]) -> None:
    """Draw one model over depth: each seed, their mean, and its interval."""
    of_depths = {
        depth: numbers([row for row in rows if row["layers"] == depth], key)
        for depth in dict.fromkeys(row["layers"] for row in rows)
    }
    axes.plot(*zip(*((depth, values.mean()) for depth, values in of_depths.items()), strict=True), **look)
    for depth, values in of_depths.items():
        if bounds := t_interval(values).bounds:
            axes.vlines(depth, *bounds, color=look["color"], linewidth=1.5)
            axes.plot([depth] * len(values), values, "_", color=look["color"], markersize=9)


def router_entropy(records: Records, _: Palette | None = None) -> Figure:
    """Draw the normalized entropy of routing weights over training, a line per layer, a panel per model."""
    models = list(by_model(records))
    layers = ScalarMappable(Normalize(1, max(2, *(row["layer"] for row in records))), "viridis_r")
    with style.new_panels(len(models), (None, 3.3), 3, margin=(1.2, 0.3), sharey=True) as (figure, panels):
        for axes, (model, rows) in zip(panels, models, strict=True):
            for layer in sorted({row["layer"] for row in rows}):
                line = [row for row in rows if row["layer"] == layer]
                entropies = [row["normalized_entropy"] for row in line]
                axes.plot([row["step"] for row in line], entropies, ".-", color=layers.to_rgba(layer), linewidth=1.2)
            axes.set_title(shown(model))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        style.label_edges(panels, "training step", "entropy, part of its maximum")
        bar = figure.colorbar(layers, ax=panels, label="layer r", fraction=0.04, pad=0.02)
        bar.locator = MaxNLocator(6, integer=True)
        bar.update_ticks()
    return figure
