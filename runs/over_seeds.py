"""Write tables and figures over training seeds, from what `limelm eval` or `limelm analyze` wrote of each seed.

    limelm eval english/seed-42/llama english/seed-42/static --tasks lambada_openai --out scores/seed-42
    limelm eval english/seed-43/llama english/seed-43/static --tasks lambada_openai --out scores/seed-43
    python runs/over_seeds.py scores/seed-42 scores/seed-43 --out results/english

    limelm analyze depth/seed-42/llama depth/seed-42/static --data tokens --out analysis/seed-42
    limelm analyze depth/seed-43/llama depth/seed-43/static --data tokens --out analysis/seed-43
    python runs/over_seeds.py analysis/seed-42 analysis/seed-43 --out results/depth/inside

A folder is one seed; all have the same models, and the same tasks and domains, or analyses. Differences are from the
first model, seed by seed, with Student's 95 % interval over seeds. (The commands themselves have intervals of single
checkpoints: over items, documents, sequences or folds.) Of analyses by_third.csv has means over each third of the
layers, and compares routers with one that has no preference, and thirds with the middle one.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from limelm.analysis.activations import HIDDEN
from limelm.evaluation.seeds import compare_losses, final_losses
from limelm.evaluation.statistics import Interval, t_interval, verdict
from limelm.records import Record, Records
from limelm.report.analysis import ANALYSIS
from limelm.report.evaluation import EVALUATION
from limelm.report.figures import states
from limelm.report.figures.palette import Palette, palette_of
from limelm.report.sections.scores import losses_by_class
from limelm.report.writer import FIGURES, save_figure, write_csv


@dataclass(frozen=True)
class Measure:
    """A table of `evaluation.json` or of an analysis.

    Attributes:
        name: of the files.
        table: see `read_tables`.
        keys: the fields that tell rows of one model apart.
        value: the field that is compared.
        draw: its figure, if it has one, of records with what `error` names as the half width of a band.
        error: see `draw`.
    """

    name: str
    table: str
    keys: tuple[str, ...]
    value: str
    draw: Callable[[Records, Palette], Figure] | None = None
    error: str = ""


COMPARED = ("difference", "t_low", "t_high", "verdict")
VERDICTS = ("accuracy", "loss", "answer_loss")  # of which less or more is better
MEASURES = (
    Measure("accuracy", "scores", ("task", "shots", "metric"), "accuracy"),
    Measure("answer_loss", "answers", ("task", "shots"), "answer_loss"),
    Measure("perplexity", "perplexity", ("domain",), "loss"),
    Measure("loss_by_context", "by_context", ("domain", "number", "tokens_are"), "loss", losses_by_class),
    Measure("loss_by_share", "by_share", ("domain", "number", "tokens_are"), "loss", losses_by_class),
    Measure("entropy", "entropy", ("states", "layer"), "entropy", states.matrix_entropy, "standard_error"),
    Measure(
        "separability", "separability", ("states", "layer", "chance"), "accuracy", states.separability, "deviation"
    ),
    Measure("gradients", "gradients", ("layer",), "gradient_norm", states.gradient_norms),
    Measure("by_third", "by_third", ("measure", "of", "layers"), "mean"),
)
#: The tables of an analysis, and the CSVs that they are in.
ANALYZED = {
    "entropy": ("entropy-values", "entropy-hidden-states"),
    "separability": ("separability-values", "separability-hidden-states"),
    "gradients": ("gradients",),
    "self_retrieval": ("self_retrieval_by_layer",),
    "expected_source": ("expected_source",),
    "mean_retrieval": ("mean_retrieval",),
}
OF_STATES = {"entropy": "entropy", "separability": "accuracy"}  # the field of each that is compared
OF_ROUTERS = {"self_retrieval": "weight", "expected_source": "expected_source", "mean_retrieval": "mean_weight"}
NO_PREFERENCE = "no preference"
ALL, THIRDS = "all", ("first third", "middle third", "last third")
MIDDLE_FIRST = (THIRDS[1], THIRDS[0], THIRDS[2])  # the first of a table is what others are compared with


def over_seeds(tables: list[Records], measure: Measure) -> Records:
    """The mean over seeds of each model's value, and its difference from the first model's.

    Args:
        tables: the measure's rows, of each seed.
    """
    return [
        {**dict(zip(measure.keys, key, strict=True)), **row}
        for key in dict.fromkeys(_key(row, measure) for row in tables[0])
        for row in _of_key([[row for row in rows if _key(row, measure) == key] for rows in tables], measure.value)
    ]


def _of_key(seeds: list[Records], value: str) -> Records:
    """The records of one task, or of one class of tokens in a domain, a model each."""
    values: dict[str, dict[int, float]] = {}
    for seed, own in enumerate(seeds):
        for row in own:
            values.setdefault(row["model"], {})[seed] = row[value]
    records, baseline = [], seeds[0][0]["model"]
    for row in compare_losses(final_losses(values, baseline), baseline):
        interval = t_interval([*values[row["model"]].values()])
        record = {key: row[key] for key in ("model", "seeds", "standard_deviation", *COMPARED)}
        if value not in VERDICTS:
            del record["verdict"]
        elif value == "accuracy" and row["verdict"]:
            record["verdict"] = verdict(Interval(row["difference"], row["t_low"], row["t_high"]), sample=None)
        bounds = {"low": interval.low, "high": interval.high}
        records.append({**record, value: row["mean"], **bounds})
    return records


def _key(row: Record, measure: Measure) -> tuple[Any, ...]:
    return tuple(row[key] for key in measure.keys)


def read_tables(folder: Path) -> tuple[Records, dict[str, Records]]:
    """The models of a folder, and its tables by name."""
    if (folder / EVALUATION).exists():
        content = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
        return content["models"], content
    tables = {name: [row for file in files for row in _read_csv(folder, file)] for name, files in ANALYZED.items()}
    models = json.loads((folder / ANALYSIS).read_text(encoding="utf-8"))["models"]
    return models, {**tables, "by_third": [*_states_by_third(tables), *_routers_by_third(tables)]}


def _read_csv(folder: Path, name: str) -> Iterator[Record]:
    path = folder / FIGURES / f"{name}.csv"
    if path.exists():
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                yield {key: _number(value) for key, value in row.items()}


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _states_by_third(tables: dict[str, Records]) -> Iterator[Record]:
    """The means over thirds of the layers of what representations are like."""
    for measure, value in OF_STATES.items():
        for kind in dict.fromkeys(row["states"] for row in tables[measure]):
            rows = [row for row in tables[measure] if row["states"] == kind]
            for layers, model, mean in _means(rows, value):
                yield {"measure": measure, "of": kind, "layers": layers, "model": model, "mean": mean}


def _routers_by_third(tables: dict[str, Records]) -> Iterator[Record]:
    """Those of what routers read, beside a router without preferences, and as a part of its, a third beside another."""
    for measure, value in OF_ROUTERS.items():
        rows = [row for row in tables[measure] if row["uniform"] > 0]
        if not rows:
            continue
        first = [row for row in rows if row["model"] == rows[0]["model"]]
        uniform = [(layers, NO_PREFERENCE, mean) for layers, _, mean in _means(first, "uniform")]
        for layers, model, mean in [*uniform, *_means(rows, value)]:
            yield {"measure": measure, "of": "", "layers": layers, "model": model, "mean": mean}
        parts = list(_means([row | {"part": row[value] / row["uniform"]} for row in rows], "part"))
        for third in MIDDLE_FIRST:
            for layers, model, mean in parts:
                if layers == third:
                    own = {"measure": f"{measure}, as a part of {NO_PREFERENCE}", "of": model, "layers": "each third"}
                    yield {**own, "model": third, "mean": mean}


def _means(rows: Records, value: str) -> Iterator[tuple[str, str, float]]:
    """The means over all layers (or representations), and over each third of them, of every model."""
    place = "source" if "layer" not in rows[0] else "layer"  # of mean_retrieval, which is by representation
    deepest = max(row[place] for row in rows)
    thirds = {number: THIRDS[3 * number // (deepest + 1)] for number in range(deepest + 1)}
    for layers in (ALL, *THIRDS):
        for model in dict.fromkeys(row["model"] for row in rows):
            own = [row for row in rows if row["model"] == model and layers in (ALL, thirds[row[place]])]
            yield layers, model, float(np.mean([row[value] for row in own]))


def write(seeds: Iterable[Path], out: Path) -> None:
    """Write a CSV for each measure that was made, and figures of those by layer or by class of tokens."""
    read = [read_tables(folder) for folder in seeds]
    for measure in MEASURES:
        rows = [[(row["model"], *_key(row, measure)) for row in tables.get(measure.table, ())] for _, tables in read]
        if any(own != rows[0] for own in rows):
            raise SystemExit(
                f"over_seeds.py: {measure.name}: the folders have other models, or other tasks and domains"
            )
    palette: Palette = palette_of(read[0][0])
    out.mkdir(parents=True, exist_ok=True)
    for measure in MEASURES:
        records = over_seeds([tables.get(measure.table, []) for _, tables in read], measure)
        if records:
            write_csv(out / f"{measure.name}.csv", records)
            _draw(records, measure, palette, out)


def _draw(records: Records, measure: Measure, palette: Palette, out: Path) -> None:
    """Write a measure's figures; values before and after routing are drawn together."""
    if measure.draw is None:
        return
    halves = [{measure.error: (row["high"] - row["low"]) / 2 if row["low"] is not None else 0.0} for row in records]
    drawn = [{**row, **half} for row, half in zip(records, halves, strict=True)] if measure.error else records
    if "states" not in measure.keys:
        save_figure(measure.draw(drawn, palette), out / measure.name)
        return
    for name, is_hidden in (("values", False), ("hidden-states", True)):
        own = [row for row in drawn if (row["states"] == HIDDEN) is is_hidden]
        if own:
            save_figure(measure.draw(own, palette), out / f"{measure.name}-{name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    write(options.seeds, options.out)
