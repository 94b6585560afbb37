"""Figures of a comparison over several seeds."""

import numpy as np
from matplotlib.figure import Figure

from limelm.records import Records
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import (
    PAGE_WIDTH,
    REFERENCE,
    WIDE,
    band,
    by_model,
    legend_beside,
    new_figure,
    numbers,
    shown,
    single_mark,
)

SPREAD = 0.28  # of a seed's marks around their model's line, so that they do not cover each other


def differences(
    losses: Records, summary: Records, baseline: str, palette: Palette, axes_names: dict[str, str]
) -> Figure:
    """Draw each seed's difference from the baseline with Student's interval, a panel for each kind of budget.

    Args:
        losses, summary: see `limelm.evaluation.seeds`.
        axes_names: kinds of budget, and how they are called.
    """
    models = [model for model, _ in by_model(losses) if model != baseline]
    height = 1.4 + 0.5 * len(models)
    with new_figure(1, len(axes_names), figsize=(PAGE_WIDTH, height), sharex=True, sharey=True, squeeze=False) as (
        figure,
        grid,
    ):
        for axes, (axis, name) in zip(grid[0], axes_names.items(), strict=True):
            axes.axvline(0, color=REFERENCE, linestyle="--", linewidth=1)
            for place, model in enumerate(models):
                rows = [row for row in losses if (row["model"], row["axis"]) == (model, axis)]
                (total,) = (row for row in summary if (row["model"], row["axis"]) == (model, axis))
                heights = place + np.linspace(-SPREAD, SPREAD, len(rows))
                axes.plot(numbers(rows, "difference"), heights, alpha=0.55, **palette.mark(model))
                low, middle, high = (float(numbers([total], key)[0]) for key in ("t_low", "difference", "t_high"))
                axes.plot([low, high], [place, place], color=palette[model], linewidth=2.5)
                axes.plot([middle], [place], "|", color=palette[model], markersize=16, markeredgewidth=2.5)
            axes.set_title(f"at equal {name}")
            axes.set_xlabel(f"held-out loss minus {shown(baseline)}'s")
        grid[0][0].set_yticks(range(len(models)), [shown(model) for model in models])
        grid[0][0].set_ylim(len(models) - 0.5, -0.5)
    return figure


def curves(measured: Records, palette: Palette) -> Figure:
    """Draw held-out loss against training FLOPs: mean over seeds, one standard deviation, and every seed.

    Args:
        measured: per model, seed and evaluation `step`, `train_flops` and `eval_loss`.
    """
    with new_figure(figsize=WIDE) as (figure, axes):
        for model, rows in by_model(measured):
            seeds = list(dict.fromkeys(row["seed"] for row in rows))
            losses = np.array([[row["eval_loss"] for row in rows if row["seed"] == seed] for seed in seeds])
            flops = np.array([row["train_flops"] for row in rows if row["seed"] == seeds[0]])
            mean, deviation = losses.mean(axis=0), losses.std(axis=0, ddof=1)
            axes.plot(flops, losses.T, color=palette[model], alpha=0.25, linewidth=0.7, **single_mark(flops))
            band(axes, flops, mean - deviation, mean + deviation, palette[model], 0.15)
            axes.plot(flops, mean, linewidth=1.8, label=shown(model), **palette.line(model, len(flops)))
        axes.set_xlabel("training FLOPs (3 × forward)")
        axes.set_ylabel("held-out loss (nats per token)")
        legend_beside(axes)
    return figure
