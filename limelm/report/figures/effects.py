"""Weights of routes beside what cutting the routes does."""

import numpy as np
from matplotlib.colors import Normalize, PowerNorm, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from limelm.records import Records
from limelm.report.figures import style
from limelm.report.figures.heatmaps import COLORS, ROOT, Triangle, draw_bar, edges, new_heatmaps
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import by_model, numbers, shown

SIGNED = "PuOr_r"  # orange above zero, purple below; told apart with any color vision
LINEAR = 0.01  # part of the scale of effects below which it is linear


def weights_and_effects(records: Records, _: Palette | None = None) -> Figure:
    """Draw weights and effects by layer and source, all heads together, two panels per model; dots are measured."""
    rows = [{**row, "shown": row["estimate"] if row["effect"] is None else row["effect"]} for row in records]
    panels = [(model, key, own) for model, own in by_model(rows) for key in ("weight", "shown")]
    titles = [f"{model}\n{'weight' if key == 'weight' else 'effect of cutting'}" for model, key, _ in panels]
    largest = float(np.nanmax(np.abs(numbers(rows, "shown")))) or 1.0
    norms: dict[str, Normalize] = {
        "weight": PowerNorm(ROOT, 0, 1),
        "shown": SymLogNorm(LINEAR * largest, vmin=-largest, vmax=largest),
    }
    images: dict[str, list[AxesImage]] = {"weight": [], "shown": []}
    with new_heatmaps(titles, max(row["layer"] for row in rows) + 1, columns=2) as (figure, grid):
        for axes, (_model, key, own) in zip(grid, panels, strict=True):
            images[key].append(Triangle(own, key).draw(axes, norms[key], COLORS if key == "weight" else SIGNED))
            measured = [row for row in own if row["effect"] is not None]
            if key == "shown" and len(measured) < len(own):
                axes.plot(numbers(measured, "source"), numbers(measured, "layer"), ".", color="black", markersize=2)
        style.label_edges(grid, *edges(rows))
    bar = draw_bar(figure, images["weight"], "weight, mean over heads (cube-root scale)")
    bar.set_ticks([0, 0.01, 0.1, 0.4, 1], labels=["0", "0.01", "0.1", "0.4", "1"])
    bar = draw_bar(figure, images["shown"], "rise of the loss, nats (logarithmic)")
    ticks = [-largest, -largest / 10, 0, largest / 10, largest]
    bar.set_ticks(ticks, labels=[f"{tick:.1g}" for tick in ticks])
    bar.minorticks_off()
    return figure


def weight_against_effect(records: Records, palette: Palette) -> Figure:
    """Draw every route by its weight and the size of its estimated effect, a panel per model."""
    models = list(by_model(records))
    with style.new_panels(len(models), (None, 3), 3, sharey=True) as (figure, panels):
        for axes, (model, rows) in zip(panels, models, strict=True):
            sizes = np.abs(numbers(rows, "estimate"))
            axes.scatter(numbers(rows, "weight"), np.maximum(sizes, 1e-8), s=8, alpha=0.5, color=palette[model])
            axes.set_title(shown(model))
            axes.set_yscale("log")
        style.label_edges(panels, "weight", "size of the effect, nats")
    return figure


def rank_correlations(records: Records, palette: Palette) -> Figure:
    """Draw the rank correlation of weights and sizes of effects in each layer, all models in one panel."""
    with style.wide_panel("layer r", "rank correlation of weight and size of effect") as (figure, axes):
        axes.axhline(0, color=style.REFERENCE, linestyle="--", linewidth=1, label="weights tell nothing")
        for model, rows in by_model(records):
            known = [row for row in rows if row["rank_correlation"] is not None]
            if known:
                style.draw_line(axes, known, "layer", "rank_correlation", palette.line(model, len(known)))
        axes.set_ylim(-1.05, 1.05)
    return figure
