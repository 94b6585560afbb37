"""Models beside each other, with intervals: benchmark scores by task, bits per byte by domain."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib.figure import Figure

from limelm.records import Records
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import PAGE_WIDTH, by_model, legend_beside, new_figure, numbers, shown


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
    models = list(dict.fromkeys(point["model"] for point in points))
    step = 0.7 / len(models)
    with new_figure(figsize=(PAGE_WIDTH, 1 + len(groups) * (0.3 + 0.16 * len(models)))) as (figure, axes):
        yield figure, axes
        for number, (model, own) in enumerate(by_model(points)):
            shift = (number - (len(models) - 1) / 2) * step
            values = numbers(own, "value")
            axes.errorbar(
                values,
                [groups.index(point["group"]) + shift for point in own],
                xerr=[values - numbers(own, "low"), numbers(own, "high") - values],
                fmt=palette.marker(model),
                color=palette[model],
                capsize=2,
                label=shown(model),
            )
        axes.set_yticks(range(len(groups)), [shown(group) for group in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(label)
        legend_beside(axes)
