"""The figures: functions that take records and return a Figure."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Records = list[dict[str, Any]]

# Okabe & Ito's colours, which colour-blind readers tell apart.
PALETTE = ("#4d4d4d", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
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
    """One colour per model, the same in every figure."""

    def __init__(self, models: list[str]):
        self.colors = {model: PALETTE[i % len(PALETTE)] for i, model in enumerate(models)}

    def __getitem__(self, model: str) -> str:
        return self.colors[model]


def loss_against_flops(curves: Records, palette: Palette) -> Figure:
    """Training loss against training FLOPs (Figure 1).

    Args:
        curves: per model and step `train_flops`, `loss`, `smoothed_loss`, and `eval_loss` where it was measured.
    """
    with new_figure(figsize=(7.6, 4.6)) as (figure, axes):
        for model, rows in _by_model(curves):
            x = [row["train_flops"] for row in rows]
            axes.plot(x, [row["loss"] for row in rows], color=palette[model], alpha=0.18, linewidth=0.8)
            axes.plot(x, [row["smoothed_loss"] for row in rows], color=palette[model], linewidth=1.8, label=model)
            held_out = [row for row in rows if row.get("eval_loss") is not None]
            axes.plot(
                [row["train_flops"] for row in held_out],
                [row["eval_loss"] for row in held_out],
                "o",
                color=palette[model],
                markersize=5,
                markeredgecolor="white",
            )
        shown = [row["smoothed_loss"] for row in curves]
        axes.set_ylim(min(shown) - 0.15, max(shown) + 0.15)
        axes.set_xlabel("training FLOPs (3 × forward)")
        axes.set_ylabel("loss (nats per token)")
        axes.legend(title="lines: training, smoothed\ndots: held out", title_fontsize=8, alignment="left")
    return figure


def mean_retrieval(records: Records, palette: Palette) -> Figure:
    """Mean retrieval weight of each representation among the layers that read it (Figure 2)."""
    with new_figure(figsize=(6.4, 4)) as (figure, axes):
        for model, rows in _by_model(records):
            sources = [row["source"] for row in rows]
            axes.plot(sources, [row["mean_weight"] for row in rows], "o-", color=palette[model], label=model)
        deepest = max((rows for _, rows in _by_model(records)), key=len)
        uniform = [row["uniform"] for row in deepest]
        axes.plot(range(len(uniform)), uniform, "--", color="#999999", label="no preference (uniform)")
        _depth_axis(axes, "representation m (0: token embedding)")
        axes.set_ylabel("mean weight in layers r ≥ m")
        axes.set_ylim(bottom=0)
        axes.legend()
    return figure


def self_retrieval(records: Records, palette: Palette) -> Figure:
    """Each head's weight on its layer's own input, a panel per model (Figure 3)."""
    models = list(_by_model(records))
    with new_figure(1, len(models), figsize=(0.6 + 3.5 * len(models), 3.6), sharey=True, squeeze=False) as (
        figure,
        grid,
    ):
        for axes, (model, rows) in zip(grid[0], models, strict=True):
            layers = sorted({row["layer"] for row in rows})
            heads = sorted({row["head"] for row in rows})
            weights = np.array([[row["weight"] for row in rows if row["head"] == head] for head in heads])
            for head in weights:
                axes.plot(layers, head, color=palette[model], alpha=0.35, linewidth=1)
            axes.plot(layers, weights.mean(axis=0), "o-", color=palette[model], linewidth=2)
            axes.plot(layers, [1 / (layer + 1) for layer in layers], "--", color="#999999", linewidth=1)
            axes.set_title(model)
            _depth_axis(axes, "layer r")
        grid[0][0].set_ylabel("weight on own input")
        grid[0][0].set_ylim(bottom=0)
    return figure


def expected_source(records: Records, palette: Palette) -> Figure:
    """The expected retrieved representation per layer, with the range over heads (Figure 4)."""
    with new_figure(figsize=(6.4, 4)) as (figure, axes):
        for model, rows in _by_model(records):
            layers = [row["layer"] for row in rows]
            axes.fill_between(
                layers,
                [row["lowest_head"] for row in rows],
                [row["highest_head"] for row in rows],
                color=palette[model],
                alpha=0.12,
                linewidth=0,
            )
            axes.plot(layers, [row["expected_source"] for row in rows], "o-", color=palette[model], label=model)
        layers = sorted({row["layer"] for row in records})
        axes.plot(layers, layers, ":", color="#666666", label="own input only (Llama)")
        axes.plot(layers, [layer / 2 for layer in layers], "--", color="#999999", label="no preference (uniform)")
        _depth_axis(axes, "layer r")
        axes.set_ylabel("expected representation")
        axes.legend()
    return figure


def weight_heatmaps(records: Records) -> Figure:
    """All retrieval weights, a panel per model; each layer is a band with a row per head (Figure 13)."""
    models = list(_by_model(records))
    layers = sorted({row["layer"] for row in records})
    heads = max(row["head"] for row in records) + 1
    largest = max(row["weight"] for row in records)
    height = min(1.2 + 0.13 * len(layers) * heads, 40)
    size = (1.4 + 3.1 * len(models), height)
    with new_figure(1, len(models), figsize=size, sharey=True, squeeze=False) as (figure, grid):
        for axes, (model, rows) in zip(grid[0], models, strict=True):
            matrix = np.full((len(layers) * heads, layers[-1] + 1), math.nan)
            for row in rows:
                matrix[layers.index(row["layer"]) * heads + row["head"], row["source"]] = row["weight"]
            image = axes.imshow(matrix, aspect="auto", cmap="viridis", vmin=0, vmax=largest, interpolation="nearest")
            for band in range(1, len(layers)):
                axes.axhline(band * heads - 0.5, color="white", linewidth=1.5)
            axes.set_title(model)
            axes.set_xlabel("representation m")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(False)
        shown = range(0, len(layers), max(1, len(layers) // 32))
        grid[0][0].set_yticks([band * heads + (heads - 1) / 2 for band in shown], [str(layers[band]) for band in shown])
        grid[0][0].set_ylabel(f"layer r ({heads} heads each)")
        figure.colorbar(image, ax=list(grid[0]), label="retrieval weight", fraction=0.04, pad=0.02)
    return figure


def retrieval_under_top_p(records: Records) -> Figure:
    """Mean retrieval of each representation and mean self-retrieval of each layer, a panel per model (Figure 9)."""
    models = list(_by_model(records))
    curves = {  # the colours are the paper's
        "mean_retrieval": ("#009e73", "representation n, from subsequent layers"),
        "self_retrieval": ("#d55e00", "layer n, its own input (self-retrieval)"),
    }
    with new_figure(len(models), 1, figsize=(7.6, 0.9 + 2.9 * len(models)), squeeze=False) as (figure, grid):
        for axes, (model, rows) in zip(grid[:, 0], models, strict=True):
            marker = "o-" if len(rows) <= 40 else "-"
            for key, (color, label) in curves.items():
                shown = [row for row in rows if row[key] is not None]
                axes.plot(
                    [row["depth"] for row in shown],
                    [row[key] for row in shown],
                    marker,
                    color=color,
                    markersize=4,
                    label=label,
                )
            axes.set_title(model)
            axes.set_ylabel("mean weight (root scale)")
            axes.set_yscale("function", functions=(_signed_root, _signed_square))  # deep models' means are small
            axes.set_yticks([0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1])
            axes.set_ylim(0, 1.05 * max(row[key] for row in rows for key in curves if row[key] is not None))
            _depth_axis(axes, "depth n (representation 0: token embedding)")
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def router_entropy(records: Records) -> Figure:
    """Normalised entropy of the routing weights over training, a line per layer, a panel per model."""
    models = list(_by_model(records))
    layers = ScalarMappable(Normalize(1, max(2, *(row["layer"] for row in records))), "viridis_r")
    size = (1.2 + 3.5 * len(models), 3.6)
    with new_figure(1, len(models), figsize=size, sharey=True, squeeze=False) as (figure, grid):
        for axes, (model, rows) in zip(grid[0], models, strict=True):
            for layer in sorted({row["layer"] for row in rows}):
                shown = [row for row in rows if row["layer"] == layer]
                entropies = [row["normalised_entropy"] for row in shown]
                axes.plot([row["step"] for row in shown], entropies, ".-", color=layers.to_rgba(layer), linewidth=1.2)
            axes.set_title(model)
            axes.set_xlabel("training step")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        grid[0][0].set_ylabel("entropy, part of its maximum")
        bar = figure.colorbar(layers, ax=list(grid[0]), label="layer r", fraction=0.04, pad=0.02)
        bar.locator = MaxNLocator(6, integer=True)
        bar.update_ticks()
    return figure


@contextmanager
def new_figure(*shape: int, figsize: tuple[float, float], **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure in the house style. No pyplot: the reader's own backend and figures are left alone."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=figsize, layout="constrained")
        yield figure, figure.subplots(*shape, **options)


def _by_model(records: Records) -> Iterator[tuple[str, Records]]:
    """The records of each model, in order of appearance."""
    for model in dict.fromkeys(row["model"] for row in records):
        yield model, [row for row in records if row["model"] == model]


def _signed_root(values: Any) -> Any:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: Any) -> Any:
    return np.sign(values) * np.square(values)


def _depth_axis(axes: Any, label: str) -> None:
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
