"""The sections on scores: accuracy by task, all scores and their average, and bits per byte by domain."""

import math

from matplotlib.figure import Figure

from limelm.evaluation.statistics import FEWEST_FOR_VERDICT
from limelm.records import Records
from limelm.report.captions import Words
from limelm.report.figures.palette import Palette
from limelm.report.figures.points import grouped_points
from limelm.report.figures.style import REFERENCE, by_model, draw_line, new_panels, numbers, shown
from limelm.report.writer import Section


def accuracies_by_task(rows: Records, palette: Palette) -> Figure:
    """Draw the models' accuracies for each task, with intervals and marks for trivial answers."""
    points = []
    for row in rows:
        low, high = (math.nan if row[key] is None else 100 * row[key] for key in ("low", "high"))
        group = f"{row['task']}, {row['shots']}-shot"
        points.append({**row, "group": group, "value": 100 * row["accuracy"], "low": low, "high": high})
    one_each = {point["group"]: point for point in points}
    with grouped_points(points, palette, "accuracy, %") as (figure, axes):
        lines = {}
        for place, point in enumerate(one_each.values()):
            if point["chance"] is not None:
                span = {"ymin": place - 0.4, "ymax": place + 0.4, "color": REFERENCE, "linewidth": 2, "zorder": 1}
                lines["guessing"] = axes.vlines(100 * point["chance"], **span)
                if point["constant_rate"] is not None:
                    lines["constant answer"] = axes.vlines(100 * point["constant_rate"], linestyle=":", **span)
        for label, line in lines.items():
            line.set_label(label)
    return figure


def bits_by_domain(rows: Records, palette: Palette) -> Figure:
    """Draw the models' bits per byte for each domain, with intervals."""
    points = [{**row, "group": row["domain"], "value": row["bits_per_byte"]} for row in rows]
    with grouped_points(points, palette, "bits per byte") as (figure, _):
        pass
    return figure


def losses_by_class(rows: Records, palette: Palette) -> Figure:
    """Draw the models' losses on classes of tokens, with intervals, a panel per domain."""
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    with new_panels(len(domains), (None, 3.2), 3, sharey=True, margin=(0, 0.9)) as (figure, panels):
        for axes, domain in zip(panels, domains, strict=True):
            names: dict[int, str] = {}
            for model, own in by_model([row for row in rows if row["domain"] == domain]):
                names |= {row["number"]: row["tokens_are"] for row in own}
                bounds = numbers(own, "low"), numbers(own, "high")
                draw_line(axes, own, "number", "loss", palette.line(model, len(own)), bounds)
            axes.set_xticks(sorted(names), [names[number] for number in sorted(names)], rotation=30, ha="right")
            axes.set_title(shown(domain))
        panels[0].set_ylabel("loss, nats per token")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _words(rows: Records) -> Words:
    first = rows[0]
    return {
        "first": first["model"],
        "has_others": any(row["model"] != first["model"] for row in rows),
        "fewest": FEWEST_FOR_VERDICT,
        **{key: first.get(key) for key in ("tasks", "window", "stride")},
    }


SECTIONS = (
    Section("accuracy", accuracies_by_task),
    Section("scores", words=_words),
    Section("average", words=_words),
    Section("answer_loss", words=_words),
    Section("perplexity", bits_by_domain, words=_words),
    Section("loss_by_context", losses_by_class, words=_words),
    Section("loss_by_share", losses_by_class, words=_words),
)
