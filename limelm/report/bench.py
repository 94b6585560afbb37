"""The results of `limelm bench`: JSON, CSV, figures, and tables as text."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from limelm.records import Records
from limelm.report.figures.palette import Palette, kind_of
from limelm.report.figures.style import legend_beside, new_figure, shown
from limelm.report.output import save_figure, write_csv, write_json

BENCH = "bench.json"


def write_bench(out: Path, facts: dict[str, Any], tables: dict[str, Records]) -> None:
    """Write `out/bench.json`, a CSV per table, and the tables' figures, in place of an earlier bench's.

    Args:
        facts: how it was measured; `baseline`, what the ratios are to.
        tables: records by name: "times", "memory", "depths", "pruning".
    """
    for name in TEXTS.keys() - tables.keys():
        for suffix in ("csv", "png", "svg"):
            (out / f"{name}.{suffix}").unlink(missing_ok=True)
    write_json(out / BENCH, {**facts, **tables})
    for name, records in tables.items():
        write_csv(out / f"{name}.csv", records)
        if name in FIGURES:
            save_figure(FIGURES[name](records, facts["baseline"]), out / name)


def as_text(tables: dict[str, Records], baseline: str) -> str:
    """All tables as lines of text; `baseline` names the denominator of the ratios."""
    return "\n\n".join([f"Ratios are to {baseline}.", *(TEXTS[name](records) for name, records in tables.items())])


def ratio_of_cases(records: Records, baseline: str) -> Figure:
    """Draw each case's times as ratios to the baseline's, a bar per task; whiskers span the quartiles."""
    cases, tasks = (list(dict.fromkeys(row[key] for row in records)) for key in ("case", "task"))
    palette = Palette(tasks)
    thickness = 0.8 / len(tasks)
    with new_figure(figsize=(7, 1.2 + 0.25 * len(cases) * (1 + len(tasks)) / 2)) as (figure, axes):
        for position, task in enumerate(tasks):
            rows = [row for row in records if row["task"] == task]
            places = [cases.index(row["case"]) + (position - (len(tasks) - 1) / 2) * thickness for row in rows]
            bars = {"xerr": _quartiles(rows), "color": palette[task], "capsize": 2, "ecolor": "#222222"}
            axes.barh(places, [row["ratio"] for row in rows], thickness, label=shown(task), **bars)
        axes.axvline(1, color="#666666", linestyle=":", label=shown(baseline))
        axes.set_yticks(range(len(cases)), [shown(case) for case in cases])
        axes.margins(y=0.02)
        axes.invert_yaxis()
        axes.set_xlabel(f"time, ratio to {shown(baseline)}")
        legend_beside(axes)
    return figure


def ratio_against_depth(records: Records, baseline: str) -> Figure:
    """Draw the training step as a ratio to the baseline's against the number of layers; bars span the quartiles."""
    cases = dict.fromkeys(row["case"] for row in records)
    palette = Palette(cases, {case: kind_of(case) or kind_of(case.split("-")[0]) for case in cases})
    with new_figure(figsize=(7, 4.2)) as (figure, axes):
        for case in cases:
            rows = [row for row in records if row["case"] == case]
            _curve(axes, [row["layers"] for row in rows], rows, palette, case)
        axes.axhline(1, color="#666666", linestyle=":", label=shown(baseline))
        axes.set_xscale("log", base=2)
        depths = sorted({row["layers"] for row in records})
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.set_xlabel("layers")
        axes.set_ylabel(f"training step, ratio to {shown(baseline)}")
        legend_beside(axes)
    return figure


def time_against_pruning(records: Records, baseline: str) -> Figure:
    """Draw inference time as a ratio to the baseline's against the pruned share; bars span the quartiles."""
    palette = Palette(sorted({row["task"] for row in records}))
    with new_figure(figsize=(6, 4)) as (figure, axes):
        for task in dict.fromkeys(row["task"] for row in records):
            rows = [row for row in records if row["task"] == task]
            _curve(axes, [100 * row["pruned_share"] for row in rows], rows, palette, task)
        axes.axhline(1, color="#666666", linestyle=":", label=shown(baseline))
        axes.set_xlabel("pruned routing weights, %")
        axes.set_ylabel(f"time, ratio to {shown(baseline)}")
        axes.legend()
    return figure


def _curve(axes: Any, x: list[float], rows: Records, palette: Palette, name: str) -> None:
    """Draw the ratios of `rows` with their quartiles at `x`."""
    ratios = [row["ratio"] for row in rows]
    axes.errorbar(x, ratios, _quartiles(rows), capsize=3, label=shown(name), **palette.line(name, len(x)))


def _quartiles(rows: Records) -> list[list[float]]:
    """The distances of the quartiles below and above the ratios."""
    return [
        [row["ratio"] - row["ratio_lower_quartile"] for row in rows],
        [row["ratio_upper_quartile"] - row["ratio"] for row in rows],
    ]


def times_table(records: Records) -> str:
    """The table of times as lines of text."""
    lines = [f"{'case':<18}{'task':<14}{'ms':>10}{'base ms':>10}{'ratio':>8}{'quartiles':>15}{'tokens/s':>12}"]
    lines += [
        f"{row['case']:<18}{row['task']:<14}{row['milliseconds']:>10.1f}{row['baseline_milliseconds']:>10.1f}"
        f"{row['ratio']:>8.3f}{row['ratio_lower_quartile']:>8.3f}-{row['ratio_upper_quartile']:.3f}"
        f"{row['tokens_per_second']:>13,.0f}"
        for row in records
    ]
    return "\n".join(lines)


def memory_table(records: Records) -> str:
    """Memory and, where it was measured, bandwidth as lines of text."""
    header = f"{'case':<18}{'task':<14}{'trained':>13}{'peak MiB':>10}{'ratio':>8}{'saved MiB':>11}{'ratio':>8}"
    copy = records[0].get("copy_bytes_per_second")
    lines = [header + ("" if copy is None else f"{'routing GB/s':>14}   (copy: {copy / 1e9:.1f} GB/s)")]
    for row in records:
        bandwidth = row.get("routing_bytes_per_second")
        lines.append(
            f"{row['case']:<18}{row['task']:<14}{row['trained_parameters']:>13,}"
            f"{row['peak_training_bytes'] / 2**20:>10.1f}{row['peak_training_bytes_ratio']:>8.3f}"
            f"{row['saved_for_backward_bytes'] / 2**20:>11.1f}{row['saved_for_backward_bytes_ratio']:>8.3f}"
            + ("" if bandwidth is None else f"{bandwidth / 1e9:>14.1f}")
        )
    return "\n".join(lines)


def pruning_table(records: Records) -> str:
    """The table of times against the pruned share as lines of text."""
    lines = [f"{'task':<9}{'pruned':>8}{'ms':>10}{'ratio':>8}{'quartiles':>15}"]
    lines += [
        f"{row['task']:<9}{row['pruned_share']:>8.1%}{row['milliseconds']:>10.1f}"
        f"{row['ratio']:>8.3f}{row['ratio_lower_quartile']:>8.3f}-{row['ratio_upper_quartile']:.3f}"
        for row in records
    ]
    return "\n".join(lines)


def depths_table(records: Records) -> str:
    """The table of ratios by depth as lines of text, a line per case."""
    depths = sorted({row["layers"] for row in records})
    lines = [f"{'layers':<18}" + "".join(f"{depth:>8}" for depth in depths)]
    for case in dict.fromkeys(row["case"] for row in records):
        by_depth = {row["layers"]: row["ratio"] for row in records if row["case"] == case}
        lines.append(f"{case:<18}" + "".join(f"{by_depth[depth]:>8.3f}" for depth in depths))
    return "\n".join(lines)


#: The figures and the texts of the tables, by their names.
FIGURES = {"times": ratio_of_cases, "depths": ratio_against_depth, "pruning": time_against_pruning}
TEXTS = {"times": times_table, "memory": memory_table, "depths": depths_table, "pruning": pruning_table}
