"""The report of a comparison over several seeds: which models differ, and by how much."""

from pathlib import Path
from typing import Any

import numpy as np

from limelm.evaluation.seeds import (
    Curve,
    compare_losses,
    how_much_sooner,
    losses_at_equal_budgets,
)
from limelm.records import Records
from limelm.report.columns import Column, share, signed_thousandths, thousandths, unbroken
from limelm.report.figures import seeds as figures
from limelm.report.figures.palette import Palette, palette_of
from limelm.report.html import Section, write_page
from limelm.report.made import how_made
from limelm.report.output import write_json
from limelm.report.tables import loss_curves

SEEDS = "seeds.json"
AXIS_NAMES = {"tokens": "tokens", "flops": "training FLOPs", "seconds": "wall-clock time"}


def write_seeds(out: Path, summaries: dict[int, dict[str, Any]]) -> tuple[Path, Records]:
    """Write `out/report.html`, `out/figures/*` and `out/seeds.json`, the figures of the tables.

    Args:
        summaries: each seed's, from `limelm.training.read_summary`.

    Returns:
        The page's path, and the summary of losses (see `limelm.evaluation.seeds.compare_losses`).
    """
    first = next(iter(summaries.values()))
    trained = [[entry["label"] for entry in summary["models"]] for summary in summaries.values()]
    labels = [label for label in trained[0] if all(label in others for others in trained)]
    baseline = next((entry["label"] for entry in first["models"] if entry["model_type"] == "llama"), labels[0])
    measured = [
        {"seed": seed, **row}
        for seed, summary in summaries.items()
        for row in loss_curves(summary)
        if row["eval_loss"] is not None and row["model"] in labels
    ]
    curves = {label: {seed: _curve(measured, label, seed) for seed in summaries} for label in labels}
    losses = losses_at_equal_budgets(curves, baseline)
    summary, sooner = compare_losses(losses, baseline), how_much_sooner(curves, baseline)
    results = {"baseline": baseline, "seeds": list(summaries), "losses": summary, "sooner": sooner}
    write_json(out / SEEDS, results)
    palette = palette_of(entry for entry in first["models"] if entry["label"] in labels)
    at_end = {row["model"]: row for row in summary if row["axis"] == "tokens"}
    page = write_page(
        out,
        _sections(measured, losses, summary, sooner, baseline, palette),
        title=f"LIMe side by side, {len(summaries)} seeds: the {first['scale']} run",
        lead=(
            f"{len(labels)} models, each trained from scratch with {len(summaries)} seeds on "
            f"{first['models'][0]['train_tokens']:,} tokens of {first['data']['source']}. Within a seed all models see "
            "the same data in the same order and share initial values, so differences are taken seed by seed."
        ),
        palette=palette,
        tiles={
            label: (f"{row['mean']:.3f}", f"held-out loss · ± {row['standard_deviation']:.3f} between seeds")
            for label, row in at_end.items()
        },
        cautions=_cautions(first, len(summaries), summary),
        facts=how_made(list(summaries.values())),
        made_of=first["fingerprint"],
    )
    return page, summary


def _curve(measured: Records, label: str, seed: int) -> Curve:
    rows = [row for row in measured if (row["model"], row["seed"]) == (label, seed)]
    keys = ("train_tokens", "train_flops", "train_seconds", "eval_loss")
    return Curve(*(np.array([row[key] for row in rows], dtype=float) for key in keys))


def _cautions(first: dict[str, Any], seeds: int, summary: Records) -> list[str]:
    parameters = max(entry["parameters"] for entry in first["models"])
    sparse = ["Held-out losses were measured too seldom to be read at equal FLOPs or time: a smaller eval_steps helps."]
    return [
        *(sparse if any(row["mean"] is None for row in summary) else []),
        f"{seeds} seeds of one recipe: intervals are over seeds, not over data sets, sizes or hyperparameters, and are "
        "not corrected for the number of comparisons. One in twenty would exclude zero by luck.",
        "At equal FLOPs or time models that cost more are read before their schedule has ended, while their learning "
        "rate is still above its last value: that counts against them.",
        "Wall-clock time is that of this machine in these runs, with all its noise; limelm bench measures speed.",
        f"{parameters:,} parameters and {first['models'][0]['train_tokens']:,} tokens are far from the paper's 1.2 "
        "billion and 41.9 billion: an early lead need not last.",
    ]


def _sections(
    measured: Records, losses: Records, summary: Records, sooner: Records, baseline: str, palette: Palette
) -> list[Section]:
    sections = [
        Section(
            "seeds_summary",
            "Which models differ",
            "Held-out loss in nats per token at the largest budget that all models of a seed have spent: the same "
            f"tokens, the same FLOPs, the same time. The difference is from {baseline}, seed by seed, with the "
            "95 % interval of Student's t over seeds and of the bootstrap, which is too narrow for few seeds. The "
            "verdict goes by Student's.",
            summary,
            columns=COLUMNS,
        )
    ]
    if any(row["model"] != baseline for row in summary):
        sections.append(differences_section("seeds_differences", losses, summary, baseline, palette, AXIS_NAMES))
    sections.append(
        Section(
            "seeds_curves",
            "Held-out loss against FLOPs (the paper's Figure 1, with its scatter)",
            "The line is the mean over seeds, the shade one standard deviation, the thin lines the seeds themselves.",
            measured,
            figures.curves(measured, palette),
        )
    )
    if sooner:
        text = (
            f"The share of {baseline}'s FLOPs after which a model's held-out loss is as low as {baseline}'s at its "
            "end, linear between evaluations, mean over the seeds in which it is reached (the others are not in it). "
            "Below 100 % is sooner."
        )
        title = f"How much sooner {baseline}'s final loss is reached"
        sections.append(Section("seeds_sooner", title, text, sooner, columns=SOONER))
    return sections


def differences_section(
    name: str, losses: Records, summary: Records, baseline: str, palette: Palette, axes: dict[str, str]
) -> Section:
    """The figure of every seed's difference from the baseline.

    Args:
        name: of the section.
        losses, summary: see `limelm.evaluation.seeds`.
        axes: the kinds of budget, and their names on the page.
    """
    return Section(
        name,
        "Differences, seed by seed",
        f"Each mark is a seed's difference from “{baseline}”; the bar is Student's 95 % interval. Left is better.",
        losses,
        figures.differences(losses, summary, baseline, palette, axes),
    )


SOONER = [
    Column("model", "model"),
    Column("share", "share of the FLOPs", share),
    Column("t_low", "95 % from", share),
    Column("t_high", "to", share),
    Column("reached", "reached in seeds"),
    Column("seeds", "of"),
    Column("verdict", "verdict", unbroken),
]
COLUMNS = [
    Column("axis", "at equal", lambda axis: unbroken(AXIS_NAMES[axis])),
    Column("model", "model", unbroken),
    Column("mean", "held-out loss", thousandths),
    Column("standard_deviation", "± between seeds", thousandths),
    Column("difference", "difference", signed_thousandths),
    Column("t_low", "95 % from", signed_thousandths),
    Column("t_high", "to", signed_thousandths),
    Column("bootstrap_low", "bootstrap from", signed_thousandths),
    Column("bootstrap_high", "to", signed_thousandths),
    Column("lower_in", "lower in seeds"),
    Column("verdict", "verdict", unbroken),
]
