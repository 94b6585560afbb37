"""The figure of accuracies on reasoning problems."""

import numpy as np
from matplotlib.figure import Figure

from limelm.records import Records
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import REFERENCE, WIDE, by_model, legend_beside, new_figure, numbers, shown

SPREAD = 0.35  # of a seed's marks within their model's share of a task's width


def accuracies(scores: Records, summary: Records, chance: dict[str, float], palette: Palette) -> Figure:
    """Draw accuracy by task and model: a mark for each seed, their mean, and Student's 95 % interval.

    Args:
        scores, summary: see `limelm.evaluation.exact_match`.
        chance: of each task.
    """
    tasks = list(chance)
    models = list(dict.fromkeys(row["model"] for row in scores))
    step = 0.8 / len(models)
    with new_figure(figsize=WIDE) as (figure, axes):
        for place, task in enumerate(tasks):
            line = axes.hlines(100 * chance[task], place - 0.45, place + 0.45, color=REFERENCE, linestyle=":")
        line.set_label("guessing")
        for number, (model, rows) in enumerate(by_model(scores)):
            look = palette.mark(model)
            for task in dict.fromkeys(row["task"] for row in rows):
                middle = tasks.index(task) + (number - (len(models) - 1) / 2) * step
                own = [row for row in rows if row["task"] == task]
                places = middle + step * np.linspace(-SPREAD, SPREAD, len(own))
                axes.plot(places, 100 * numbers(own, "accuracy"), alpha=0.55, **look)
                (total,) = (row for row in summary if (row["task"], row["model"]) == (task, model))
                low, mean, high = (100 * float(numbers([total], key)[0]) for key in ("low", "mean", "high"))
                axes.plot([middle, middle], [low, high], color=palette[model], linewidth=2)
                axes.hlines(mean, middle - step / 2.5, middle + step / 2.5, color=palette[model], linewidth=2.5)
            axes.plot([], [], label=shown(model), **look)
        axes.set_xticks(range(len(tasks)), [shown(task) for task in tasks])
        axes.grid(axis="x", visible=False)
        axes.set_xlim(-0.5, len(tasks) - 0.5)
        axes.set_ylim(-3, 103)
        axes.set_ylabel("right answers, %")
        legend_beside(axes)
    return figure
