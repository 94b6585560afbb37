"""Models beside each other, as points with intervals: scores, bits per byte, and what came out with each seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from limelm.records import Records
from limelm.report.figures import style
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import by_model, numbers, shown


@contextmanager
def grouped_points(points: Records, palette: Palette, label: str) -> Iterator[tuple[Figure, Any]]:
    """Draw a row for each group, and in it a point with its interval for each model.

    Args:
        points: records of `group`, `model`, `value`, and its bounds `low` and `high` (None for no interval).
        label: of the values' axis.

    Yields:
        The figure and its axes, on which group i stands at y = i, for marks to go below the points.
    """
    groups = list(dict.fromkeys(point["group"] for point in points))
    models = list(by_model(points))
    step = 0.7 / len(models)
    with style.new_figure(figsize=(style.PAGE_WIDTH, 1 + len(groups) * (0.3 + 0.16 * len(models)))) as (figure, axes):
        yield figure, axes
        for number, (model, own) in enumerate(models):
            places = [groups.index(point["group"]) + (number - (len(models) - 1) / 2) * step for point in own]
            values = numbers(own, "value")
            bounds = [values - numbers(own, "low"), numbers(own, "high") - values]
            look = {"fmt": palette.marker(model), "color": palette[model], "capsize": 2, "label": shown(model)}
            axes.errorbar(values, places, xerr=bounds, **look)
        axes.set_yticks(range(len(groups)), [shown(group) for group in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(label)
        style.legend_beside(axes)


def differences(records: Records, palette: Palette) -> Figure:
    """Draw each seed's difference from the baseline and Student's interval of their mean, a panel per kind of budget.

    The model with the lowest mean in the first panel is at the top. A kind of budget at which no model was measured has
    no panel.

    Args:
        records: of `model`, `baseline`, `axis` (the kind of budget), `seed` and `difference`, without the baseline's.
    """
    measured = [row for row in records if np.isfinite(numbers([row], "difference")).all()]
    kinds = list(dict.fromkeys(row["axis"] for row in measured))
    first = by_model([row for row in records if row["axis"] == kinds[0]])
    means = {model: float(numbers(own, "difference").mean()) for model, own in first}
    models = sorted(means, key=means.__getitem__)
    size = (style.PAGE_WIDTH, 1.4 + 0.5 * len(models))
    with style.new_figure(1, len(kinds), figsize=size, sharex=True, sharey=True, squeeze=False) as (figure, grid):
        for axes, kind in zip(grid[0], kinds, strict=True):
            axes.axvline(0, color=style.REFERENCE, linestyle="--", linewidth=1)
            for place, model in enumerate(models):
                own = [row for row in records if (row["model"], row["axis"]) == (model, kind)]
                values = numbers(own, "difference")
                axes.plot(values, place + np.linspace(-0.28, 0.28, len(own)), alpha=0.55, **palette.mark(model))
                style.draw_interval(axes, place, values, palette[model], is_upright=False)
            axes.set_title(f"at equal {kind}")
            axes.set_xlabel(f"held-out loss minus {shown(records[0]['baseline'])}'s")
        grid[0][0].set_yticks(range(len(models)), [shown(model) for model in models])
        grid[0][0].set_ylim(len(models) - 0.5, -0.5)
    return figure


def right_answers(records: Records, palette: Palette) -> Figure:
    """Draw the share of right answers by task and model: a mark for each seed, their mean, and Student's interval.

    Args:
        records: of `task`, `chance`, `model`, `seed` and `accuracy`.
    """
    tasks = {row["task"]: row["chance"] for row in records}
    places = list(tasks)
    models = list(by_model(records))
    step = 0.8 / len(models)
    with style.wide_panel("", "right answers, %", is_depth=False) as (figure, axes):
        for place, chance in enumerate(tasks.values()):
            line = axes.hlines(100 * chance, place - 0.45, place + 0.45, color=style.REFERENCE, linestyle=":")
        line.set_label("guessing")
        for number, (model, rows) in enumerate(models):
            for task in dict.fromkeys(row["task"] for row in rows):
                middle = places.index(task) + (number - (len(models) - 1) / 2) * step
                values = 100 * numbers([row for row in rows if row["task"] == task], "accuracy")
                spread = middle + step * np.linspace(-0.35, 0.35, len(values))
                axes.plot(spread, values, alpha=0.55, **palette.mark(model))
                style.draw_interval(axes, middle, values, palette[model], is_upright=True)
            axes.plot([], [], label=shown(model), **palette.mark(model))
        axes.set_xticks(range(len(tasks)), [shown(task) for task in tasks])
        axes.grid(axis="x", visible=False)
        axes.set_xlim(-0.5, len(tasks) - 0.5)
        axes.set_ylim(-3, 103)
    return figure
