"""How representations change with depth: curves (Figures 5, 7, 11 and 12) and clouds (Figures 6 and 15)."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from limelm.analysis.activations import HIDDEN, OWN_VALUES
from limelm.records import Records
from limelm.report.figures import style
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import by_model, numbers, shown

REPRESENTATION, LAYER = "representation m (0: token embedding)", "layer r"
FAR_ABOVE_CHANCE = 0.3  # from here on the axis leaves out the chance level, which would flatten the curves


def matrix_entropy(records: Records, palette: Palette) -> Figure:
    """Draw matrix entropy per layer, with its standard error over sequences (Figures 5 and 11)."""
    with _states(records, palette, "entropy", "matrix entropy (nats)", "standard_error") as (figure, _):
        return figure


def effective_rank(records: Records, palette: Palette) -> Figure:
    """Draw effective rank per layer, with its standard error over sequences."""
    with _states(records, palette, "effective_rank", "effective rank", "standard_error") as (figure, _):
        return figure


def separability(records: Records, palette: Palette) -> Figure:
    """Draw a linear probe's accuracy per layer, with its standard deviation over folds (Figures 7 and 12)."""
    label = "accuracy on held-out folds"
    with _states(records, palette, "accuracy", label, "deviation") as (figure, axes):
        lowest = np.nanmin(numbers(records, "accuracy") - numbers(records, "deviation"))
        limits = axes.get_ylim()
        for chance in sorted(set(numbers(records, "chance"))):
            far = lowest > chance + FAR_ABOVE_CHANCE
            label = f"chance: {chance:.2f}" + " (below)" * bool(far)
            axes.axhline(chance, linestyle=":", color=style.REFERENCE, label=label)
            if far:
                axes.set_ylim(limits)
    return figure


def cosine(records: Records, palette: Palette) -> Figure:
    """Draw the cosine similarity of neighboring tokens' hidden states, and of any two, per representation."""
    with style.wide_panel(REPRESENTATION, "mean cosine similarity") as (figure, axes):
        for model, rows in by_model(records):
            bounds = style.error_band(rows, "neighbors", "standard_error")
            style.draw_line(axes, rows, "layer", "neighbors", palette.line(model, len(rows)), bounds)
            dashed = {"ls": "--", "color": palette[model], **style.single_mark(rows)}
            style.draw_line(axes, rows, "layer", "any_pair", dashed)
        for label, dashes in {"neighboring tokens": "-", "any two tokens": "--"}.items():
            axes.plot([], [], dashes, color="#222222", label=label)
    return figure


def logit_lens(records: Records, palette: Palette) -> Figure:
    """Draw what the head reads out of each representation: loss, divergence from the output, agreement with it."""
    panels = {
        "loss": "next-token loss (nats)",
        "kl": "KL from the output (nats)",
        "agreement": "top-1 agreement with the output",
    }
    with style.new_figure(1, 3, figsize=(style.PAGE_WIDTH, 4)) as (figure, grid):
        for axes, (key, label) in zip(grid, panels.items(), strict=True):
            for model, rows in by_model(records):
                bounds = style.error_band(rows, "loss", "loss_standard_error") if key == "loss" else None
                style.draw_line(axes, rows, "layer", key, palette.line(model, len(rows)), bounds)
            style.depth_axis(axes, "representation m")
            axes.set_ylabel(label)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def gradient_norms(records: Records, palette: Palette) -> Figure:
    """Draw the norm of the loss's gradient per layer, on a logarithmic scale."""
    with style.wide_panel(LAYER, "norm of the loss's gradient") as (figure, axes):
        for model, rows in by_model(records):
            style.draw_line(axes, rows, "layer", "gradient_norm", palette.line(model, len(rows)))
        axes.set_yscale("log")
    return figure


def tsne(records: Records, _: Palette | None = None) -> Figure:
    """Draw t-SNE clouds: a row per model, a panel per layer, a color and marker per word."""
    models = list(by_model(records))
    words = Palette(dict.fromkeys(row["word"] for row in records))
    place = "representation" if records[0]["states"] == HIDDEN else "layer"
    columns = max(len({row["layer"] for row in rows}) for _, rows in models)
    width = min(2.4, (style.PAGE_WIDTH - 0.5) / columns)
    size = (0.5 + width * columns, 0.5 + (width + 0.25) * len(models))
    with style.new_figure(len(models), columns, figsize=size, squeeze=False) as (figure, grid):
        for panels, (model, rows) in zip(grid, models, strict=True):
            layers = sorted({row["layer"] for row in rows})
            panels[0].set_ylabel(shown(model, int(11 * width)), fontweight="bold")
            for axes in panels[len(layers) :]:
                axes.remove()
            for axes, layer in zip(panels, layers, strict=False):
                for word in words.kinds:
                    own = [row for row in rows if row["layer"] == layer and row["word"] == word]
                    look = {"color": words[word], "marker": words.marker(word), "label": shown(word)}
                    # thousands of marks would make a heavy page, so they are drawn as pixels
                    axes.scatter(numbers(own, "x"), numbers(own, "y"), 11, **look, lw=0, alpha=0.75, rasterized=True)
                axes.set_title(f"{place} {layer}", fontsize=9, fontweight="normal")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 8), markerscale=2)
    return figure


@contextmanager
def _states(records: Records, palette: Palette, key: str, label: str, error: str) -> Iterator[tuple[Figure, Axes]]:
    """Draw a line per model, and a dashed one of its values before routing."""
    with style.wide_panel(REPRESENTATION if records[0]["states"] == HIDDEN else LAYER, label) as (figure, axes):
        for model, all_rows in by_model(records):
            for states in dict.fromkeys(row["states"] for row in all_rows):
                rows = [row for row in all_rows if row["states"] == states]
                look = palette.line(model, len(rows))
                if states == OWN_VALUES:
                    look |= {"linestyle": "--", "markerfacecolor": "white", "markeredgecolor": palette[model]}
                    look |= {"label": shown(f"{model}, before routing")}
                style.draw_line(axes, rows, "layer", key, look, style.error_band(rows, key, error))
        yield figure, axes
