"""The report of a comparison in a pretrained model: routers beside equally small baselines and no training at all."""

from pathlib import Path
from typing import Any

from limelm.evaluation.seeds import compare_losses, final_losses
from limelm.records import Records
from limelm.report.columns import Column, count, signed_thousandths, thousandths, unbroken
from limelm.report.figures.palette import Palette, kind_of
from limelm.report.html import Section, write_page
from limelm.report.made import how_made
from limelm.report.output import write_json
from limelm.report.seeds import differences_section
from limelm.text import counted

ADAPTATION = "adaptation.json"


def write_adaptation(out: Path, summaries: dict[int, dict[str, Any]], routed: list[str]) -> tuple[Path, Records]:
    """Write `out/report.html`, `out/figures/*` and `out/adaptation.json`.

    Args:
        routed: labels of the models that route; the others are what they are compared with.
        summaries: by seed, each run's, from `limelm.training.read_summary`. Models that are not trained are measured
            alike in all.

    Returns:
        The page's path, and the comparison of each model with the first (see `compare_losses`).
    """
    runs = [{entry["label"]: entry for entry in summary["models"]} for summary in summaries.values()]
    labels = [label for label in runs[0] if all(label in run for run in runs)]
    routed = [label for label in labels if label in routed]
    losses = {
        label: {seed: run[label]["eval_loss"] for seed, run in zip(summaries, runs, strict=True)} for label in labels
    }
    trained = {label: runs[0][label]["trainable_parameters"] for label in labels}
    others = [label for label in labels if label not in routed]
    summary = [
        {**row, "trained": trained[row["model"]]} for row in compare_losses(final_losses(losses, labels[0]), labels[0])
    ]
    against = [
        {"reference": reference, **row}
        for reference in others[1:]
        for row in compare_losses(
            final_losses({label: losses[label] for label in labels if label in (reference, *routed)}, reference),
            reference,
        )
        if row["model"] != reference
    ]
    results = {"seeds": list(summaries), "losses": losses, "models": summary, "against": against}
    write_json(out / ADAPTATION, results)
    first = next(iter(summaries.values()))
    palette = Palette(labels, {label: kind_of(label) or kind_of(runs[0][label]["name"]) for label in labels})
    page = write_page(
        out,
        _sections(losses, summary, against, labels[0], palette),
        title="LIMe in a pretrained model, beside equally small baselines",
        lead=(
            f"{first['base']}, {max(entry['train_tokens'] for entry in first['models']):,} tokens of "
            f"{first['data']['source']}, {counted(len(summaries), 'seed')}. Within a seed all "
            "models see the same data in the same order, so differences are taken seed by seed."
        ),
        palette=palette,
        tiles={
            row["model"]: (f"{row['mean']:.3f}", f"held-out loss · {row['trained']:,} trained parameters")
            for row in summary
        },
        cautions=[
            "Intervals are over seeds (order of the data, and initial values where these are random), not over texts, "
            "models or learning rates, and are not corrected for the number of comparisons.",
            "Each kind of parameters has its own learning rate in the recipe; another may change their order.",
            f"One held-out text ({first['data']['source']}): a lower loss on it is adaptation to this text too, and "
            "says nothing about other tasks.",
        ],
        facts=how_made(list(summaries.values())),
        made_of=first["fingerprint"],
    )
    return page, summary


def _sections(
    losses: dict[str, dict[int, float]], summary: Records, against: Records, first: str, palette: Palette
) -> list[Section]:
    compared = [row for row in summary if row["difference"] is not None]
    differences = final_losses(losses, first)
    sections = [
        Section(
            "adaptation_losses",
            "Held-out loss",
            f"Nats per token after training; differences from “{first}”, with Student's 95 % interval over seeds.",
            summary,
            columns=COLUMNS,
        )
    ]
    if compared and all(row["t_low"] is not None for row in compared):
        axes = {"tokens": "tokens"}
        sections.append(differences_section("adaptation_differences", differences, summary, first, palette, axes))
    if against:
        text = "The same tokens spent without routers, seed by seed. Below zero the routers won."
        title = "Routers against the baselines"
        sections.append(Section("adaptation_against", title, text, against, columns=AGAINST))
    return sections


DIFFERENCE = [
    Column("difference", "difference", signed_thousandths),
    Column("t_low", "95 % from", signed_thousandths),
    Column("t_high", "to", signed_thousandths),
    Column("lower_in", "lower in seeds"),
    Column("verdict", "verdict", unbroken),
]
COLUMNS = [
    Column("model", "model", unbroken),
    Column("trained", "trained parameters", count),
    Column("mean", "held-out loss", thousandths),
    Column("standard_deviation", "± between seeds", thousandths),
    *DIFFERENCE,
]
AGAINST = [Column("model", "model", unbroken), Column("reference", "minus", unbroken), *DIFFERENCE]
