"""Write tables and figures over training seeds, from what `limelm eval` wrote of each seed's models.

    limelm eval english/seed-42/llama english/seed-42/static --tasks lambada_openai --out scores/seed-42
    limelm eval english/seed-43/llama english/seed-43/static --tasks lambada_openai --out scores/seed-43
    python runs/over_seeds.py scores/seed-42 scores/seed-43 --out results/english

A folder is one seed; all have the same models, tasks and domains. Differences are from the first model, seed by seed,
with Student's 95 % interval over seeds. (limelm eval has intervals over items or documents of single checkpoints.)
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limelm.evaluation.seeds import compare_losses, final_losses, interval_over_seeds
from limelm.evaluation.statistics import Interval, verdict
from limelm.records import Record, Records
from limelm.report.evaluation import EVALUATION
from limelm.report.figures.palette import Palette, palette_of
from limelm.report.sections.scores import losses_by_class
from limelm.report.writer import save_figure, write_csv


@dataclass(frozen=True)
class Measure:
    """A table of `evaluation.json`.

    Attributes:
        name: of the files.
        keys: the fields that tell rows of one model apart.
        value: the field that is compared.
    """

    name: str
    table: str
    keys: tuple[str, ...]
    value: str


COMPARED = ("difference", "t_low", "t_high", "verdict")
MEASURES = (
    Measure("accuracy", "scores", ("task", "shots", "metric"), "accuracy"),
    Measure("answer_loss", "answers", ("task", "shots"), "answer_loss"),
    Measure("perplexity", "perplexity", ("domain",), "loss"),
    Measure("loss_by_context", "by_context", ("domain", "number", "tokens_are"), "loss"),
    Measure("loss_by_share", "by_share", ("domain", "number", "tokens_are"), "loss"),
)


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
        interval = interval_over_seeds(np.array([*values[row["model"]].values()]))
        record = {key: row[key] for key in ("model", "seeds", "standard_deviation", *COMPARED)}
        if value == "accuracy" and row["verdict"]:
            record["verdict"] = verdict(Interval(row["difference"], row["t_low"], row["t_high"]), sample=None)
        bounds = {"low": interval and interval.low, "high": interval and interval.high}
        records.append({**record, value: row["mean"], **bounds})
    return records


def _key(row: Record, measure: Measure) -> tuple[Any, ...]:
    return tuple(row[key] for key in measure.keys)


def write(seeds: Iterable[Path], out: Path) -> None:
    """Write a CSV for each measure that was made, and figures of the losses by class."""
    evaluations = [json.loads((folder / EVALUATION).read_text(encoding="utf-8")) for folder in seeds]
    for measure in MEASURES:
        rows = [[(row["model"], *_key(row, measure)) for row in each[measure.table]] for each in evaluations]
        if any(own != rows[0] for own in rows):
            raise SystemExit(
                f"over_seeds.py: {measure.name}: the folders have other models, or other tasks and domains"
            )
    palette: Palette = palette_of(evaluations[0]["models"])
    out.mkdir(parents=True, exist_ok=True)
    for measure in MEASURES:
        records = over_seeds([each[measure.table] for each in evaluations], measure)
        if records:
            write_csv(out / f"{measure.name}.csv", records)
        if records and "number" in measure.keys:
            save_figure(losses_by_class(records, palette), out / measure.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    write(options.seeds, options.out)
