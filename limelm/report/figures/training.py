"""Figures of a training: losses, and how the routers come to choose."""

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from limelm.records import Records
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import (
    WIDE,
    by_model,
    label_edges,
    legend_beside,
    new_figure,
    new_panels,
    numbers,
    shown,
    single_mark,
)


def loss_against_flops(curves: Records, palette: Palette) -> Figure:
    """Draw training loss against training FLOPs (Figure 1).

    Args:
        curves: per model and step `train_flops`, `loss`, `smoothed_loss`, and `eval_loss` where it was measured.
    """
    with new_figure(figsize=WIDE) as (figure, axes):
        for model, rows in by_model(curves):
            x, single = numbers(rows, "train_flops"), single_mark(rows)
            axes.plot(x, numbers(rows, "loss"), color=palette[model], alpha=0.18, linewidth=0.8, **single)
            look = palette.line(model, len(rows)) | {"linewidth": 1.8}
            axes.plot(x, numbers(rows, "smoothed_loss"), **look | {"marker": ""} | single)
            evaluated = [row for row in rows if row["eval_loss"] is not None]
            marks = look | {"linestyle": "", "markevery": 1}
            axes.plot(numbers(evaluated, "train_flops"), numbers(evaluated, "eval_loss"), **marks)
            axes.plot([], [], label=shown(model), **look)  # the legend shows both
        axes.set_xlabel("training FLOPs (3 × forward)")
        axes.set_ylabel("loss (nats per token)")
        is_smoothed = any(row["smoothed_loss"] != row["loss"] for row in curves)
        lines = "lines: training, smoothed" if is_smoothed else "lines: training"
        legend_beside(axes, title=f"{lines}\nmarks: held out", title_fontsize=8, alignment="left")
    return figure


def router_entropy(records: Records) -> Figure:
    """Draw the normalized entropy of routing weights over training, a line per layer, a panel per model."""
    models = list(by_model(records))
    layers = ScalarMappable(Normalize(1, max(2, *(row["layer"] for row in records))), "viridis_r")
    with new_panels(len(models), (None, 3.3), 3, margin=(1.2, 0.3), sharey=True) as (figure, panels):
        for axes, (model, rows) in zip(panels, models, strict=True):
            for layer in sorted({row["layer"] for row in rows}):
                line = [row for row in rows if row["layer"] == layer]
                entropies = [row["normalized_entropy"] for row in line]
                axes.plot([row["step"] for row in line], entropies, ".-", color=layers.to_rgba(layer), linewidth=1.2)
            axes.set_title(shown(model))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        label_edges(panels, "training step", "entropy, part of its maximum")
        bar = figure.colorbar(layers, ax=panels, label="layer r", fraction=0.04, pad=0.02)
        bar.locator = MaxNLocator(6, integer=True)
        bar.update_ticks()
    return figure
