"""Figure of a search: held-out loss against the learning rate."""

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from limelm.records import Records
from limelm.report.figures import style
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import by_model, numbers

TOP = 0.97  # of the axes' height, where a cross stands for a training that diverged


def loss_by_learning_rate(records: Records, palette: Palette) -> Figure:
    """Draw the held-out loss of the first seed at each rate: the best is filled, a cross at the top has diverged.

    Args:
        records: of `model`, `learning_rate`, `seed`, `eval_loss` (None where it diverged) and `is_best`.
    """
    first = min(row["seed"] for row in records)
    rates = sorted({row["learning_rate"] for row in records})
    with style.wide_panel("learning rate", "held-out loss (nats per token)", is_depth=False) as (figure, axes):
        for model, rows in by_model([row for row in records if row["seed"] == first]):
            rows = sorted(rows, key=lambda row: float(row["learning_rate"]))
            look = palette.line(model, len(rows))
            open_mark = {"markerfacecolor": "white", "markeredgecolor": look["color"], "markeredgewidth": 1}
            axes.plot(numbers(rows, "learning_rate"), numbers(rows, "eval_loss"), **look | open_mark)
            best = [row for row in rows if row["is_best"]]
            axes.plot(numbers(best, "learning_rate"), numbers(best, "eval_loss"), **palette.mark(model))
            for place in numbers([row for row in rows if row["eval_loss"] is None], "learning_rate"):
                axes.plot(place, TOP, "x", color=look["color"], transform=axes.get_xaxis_transform())
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.xaxis.set_minor_locator(NullLocator())
    return figure
