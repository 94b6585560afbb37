"""The results of `limelm bench`: JSON, CSV, figures, and tables as text."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from limelm.records import Records
from limelm.report.captions import columns
from limelm.report.columns import aligned, as_text, thousandths
from limelm.report.figures.palette import Palette, kind_of
from limelm.report.figures.style import legend_beside, new_figure, shown
from limelm.report.writer import save_figure, write_csv, write_json

BENCH = "bench.json"


def write_bench(out: Path, facts: dict[str, Any], tables: dict[str, Records]) -> None:
    """Write `out/bench.json`, a CSV per table, and the tables' figures, in place of an earlier bench's.

    Args:
        facts: how it was measured; `baseline`, what the ratios are to.
        tables: records by name: "times", "memory", "depths", "pruning".
    """
    for name in {"times", "memory", "depths", "pruning"} - tables.keys():
        for suffix in ("csv", "png", "svg"):
            (out / f"{name}.{suffix}").unlink(missing_ok=True)
    write_json(out / BENCH, {**facts, **tables})
    for name, records in tables.items():
        write_csv(out / f"{name}.csv", records)
        if name in FIGURES:
            save_figure(FIGURES[name](records, facts["baseline"]), out / name)


def tables_as_text(tables: dict[str, Records], baseline: str) -> str:
    """Write all tables for a terminal; `baseline` is what the ratios are to."""
    texts = [f"Ratios are to {baseline}."]
    for name, records in tables.items():
        texts.append(_depths_table(records) if name == "depths" else as_text(columns(name), records))
    return "\n\n".join(texts)


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
        _curves(axes, records, "case", "layers", palette, baseline)
        axes.set_xscale("log", base=2)
        depths = sorted({row["layers"] for row in records})
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.set(xlabel="layers", ylabel=f"training step, ratio to {shown(baseline)}")
        legend_beside(axes)
    return figure


def time_against_pruning(records: Records, baseline: str) -> Figure:
    """Draw inference time as a ratio to the baseline's against the pruned share; bars span the quartiles."""
    percents = [row | {"percent": 100 * row["pruned_share"]} for row in records]
    with new_figure(figsize=(6, 4)) as (figure, axes):
        _curves(axes, percents, "task", "percent", Palette(sorted({row["task"] for row in records})), baseline)
        axes.set(xlabel="pruned routing weights, %", ylabel=f"time, ratio to {shown(baseline)}")
        axes.legend()
    return figure


def _curves(axes: Any, records: Records, by: str, x: str, palette: Palette, baseline: str) -> None:
    """Draw the ratios with their quartiles over column x, a curve for each value of column `by`."""
    for name in dict.fromkeys(row[by] for row in records):
        rows = [row for row in records if row[by] == name]
        places, ratios = ([row[key] for row in rows] for key in (x, "ratio"))
        axes.errorbar(places, ratios, _quartiles(rows), capsize=3, **palette.line(name, len(rows)))
    axes.axhline(1, color="#666666", linestyle=":", label=shown(baseline))


def _quartiles(rows: Records) -> list[list[float]]:
    """The distances of the quartiles below and above the ratios."""
    return [
        [row["ratio"] - row["ratio_lower_quartile"] for row in rows],
        [row["ratio_upper_quartile"] - row["ratio"] for row in rows],
    ]


#: The figures of the tables, by their names.
FIGURES = {"times": ratio_of_cases, "depths": ratio_against_depth, "pruning": time_against_pruning}


def _depths_table(records: Records) -> str:
    """Ratios by depth, a line per case."""
    depths = sorted({row["layers"] for row in records})
    cases: dict[str, dict[int, float]] = {}
    for row in records:
        cases.setdefault(row["case"], {})[row["layers"]] = row["ratio"]
    rows = [[case, *(thousandths(ratios.get(depth)) for depth in depths)] for case, ratios in cases.items()]
    return aligned(["layers", *map(str, depths)], rows)
