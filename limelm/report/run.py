"""The report of `limelm reproduce` on one run, whose sections appear when their records do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limelm.evaluation.seeds import baseline_of
from limelm.evaluation.statistics import NOT_DISTINGUISHABLE
from limelm.records import Record, Records
from limelm.report.captions import columns, paragraphs
from limelm.report.columns import as_text, thousandths
from limelm.report.figures.palette import Palette, palette_of
from limelm.report.made import how_made
from limelm.report.sections.answers import ANSWERS, answer_facts, answer_records, answer_tiles, answer_words
from limelm.report.sections.costs import COSTS, efficiency, paper_scale
from limelm.report.sections.fairness import FAIRNESS, cost_words, fairness_records
from limelm.report.sections.results import (
    ENTROPY,
    LOSSES,
    is_one_environment,
    last_steps,
    loss_records,
    results,
    trainings_of,
)
from limelm.report.sections.routing import is_set_of, models_in, routing_sections, routing_words, with_weight_sets
from limelm.report.sections.search import SEARCH, search_records, search_words
from limelm.report.writer import write_page
from limelm.text import counted
from limelm.training.router_statistics import routed_with_weights

PAPER_PARAMETERS, PAPER_TOKENS = 1e9, 40e9  # from here on a run has the paper's scale
YOUNG = 1_000  # steps, below which routing weights are said to be near their start


def write_run(
    out: Path,
    summary: dict[str, Any],
    retrieval: Mapping[str, Records],
    answers: Record | None = None,
    costs: Records | None = None,
) -> Path:
    """Write `out/report.html` and `out/figures/*.png, *.svg, *.csv`.

    Args:
        summary: of the run, from `limelm.training.read_summary`.
        retrieval: the routing models' records by figure, from `limelm.training.router_statistics.measure_retrieval`;
            empty where none routes.
        answers: of models that were asked problems, from `limelm.evaluation.exact_match.score_run`.
        costs: of models whose costs were measured, from `limelm.benchmark.costs.measure_costs`.

    Returns:
        The page's path.
    """
    tasks = [] if answers is None else [answers]
    records = {**retrieval, **loss_records(summary), **answer_records(tasks), "efficiency": efficiency(summary)}
    records |= {"search": search_records(summary), **fairness_records(summary, costs or [])}
    if _is_from_scratch_on_text(summary):
        records["paper_scale"] = paper_scale()
    palette = with_weight_sets(palette_of_run(summary), retrieval)
    routed = routed_with_weights(summary)
    words = {
        **run_words(summary, records, {label: entry["seed"] for label, entry in routed.items() if entry is not None}),
        **routing_words(retrieval),
        **answer_words(tasks, records["exact_match_summary"]),
        **search_words(summary),
        **cost_words(costs or []),
    }
    facts = how_made(summary)
    measured = models_in(retrieval)
    unmeasured = [
        label
        for label, kept in routed.items()
        if kept is None and not any(name == label or is_set_of(label, name) for name in measured)
    ]
    return write_page(
        out,
        [*ANSWERS, *LOSSES, SEARCH, *FAIRNESS, *COSTS, *routing_sections(retrieval), ENTROPY],
        records,
        palette,
        words,
        title=paragraphs("run", "title", words)[0],
        lead=" ".join(paragraphs("run", "lead", words)),
        tiles=answer_tiles(records["exact_match_summary"]) or _loss_tiles(records["results"]),
        cautions=[*paragraphs("run", "cautions", words), *paragraphs("answers", "cautions", words)],
        facts={**facts, "Data": [*facts["Data"], *answer_facts(tasks)]},
        missing=[f"what {label} retrieves (its weights are not kept)" for label in unmeasured],
        made_of=summary["fingerprint"],
    )


def results_as_text(summary: dict[str, Any], answers: Record | None = None) -> str:
    """The results of a run as a table for a terminal, and below it another of the right answers, if there are any."""
    tables = [as_text(columns("printed_results"), results(summary))]
    if answers is not None:
        tables.append(as_text(columns("printed_answers"), answer_records([answers])["exact_match_summary"]))
    return "\n\n".join(tables)


def palette_of_run(summary: dict[str, Any]) -> Palette:
    """The look of a run's models; those in a pretrained model are known by their names, not by its type."""
    named = ("label", "name") if "base" in summary else ("label", "name", "model_type", "routing")
    entries = [*summary.get("search", ()), *summary["trainings"]]  # the former has models that always diverged, too
    models = {entry["label"]: {key: entry.get(key) for key in named} for entry in entries}
    return palette_of(models.values())


def run_words(
    summary: dict[str, Any], records: Mapping[str, Records], routing_seeds: Mapping[str, int]
) -> dict[str, Any]:
    """Facts for the texts of a run's sections, its lead and its cautions.

    Args:
        routing_seeds: of each model the seed of the weights whose routing is shown.
    """
    data, trainings, models = summary["data"], summary["trainings"], trainings_of(summary)
    parameters, tokens = (max(entry[key] for entry in trainings) for key in ("parameters", "train_tokens"))
    is_from_scratch, has_seeds = "base" not in summary, len(summary["seeds"]) > 1
    is_text = _is_from_scratch_on_text(summary)
    has_routing = any(records.get(name) for name in ("mean_retrieval", "router_entropy"))
    curves = records.get("loss_against_flops") or records["loss_over_seeds"]
    return {
        "name": summary["name"],
        "base": summary.get("base"),
        "is_from_scratch": is_from_scratch,
        "is_text": is_text,
        "is_small": is_text and (parameters < PAPER_PARAMETERS or tokens < PAPER_TOKENS),
        "is_mixed": not is_one_environment(summary),
        "is_sparse": any(
            row["mean"] is None for name in ("equal_budgets", "equal_time") for row in records.get(name, [])
        ),
        "is_routing_young": has_routing and max((row["step"] for row in curves), default=0) < YOUNG,
        "has_seeds": has_seeds,
        "has_one_seed": not has_seeds,
        "has_budgets": bool(records.get("equal_budgets")),
        "within_noise": "; ".join(row["model"] for row in records["results"] if row["verdict"] == NOT_DISTINGUISHABLE),
        "has_difference": any(row["difference"] is not None for row in records["results"]),
        "has_answers": bool(records["exact_match"]),
        "routing_seeds": _seeds_in_words(summary["seeds"][0], routing_seeds) if has_routing and has_seeds else "",
        "left_out": ", ".join(dict.fromkeys(row["label"] for row in trainings if row["label"] not in models)),
        "baseline": baseline_of(summary),
        "models": counted(len(models), "model"),
        "seeds": counted(len(summary["seeds"]), "seed"),
        "parameters": parameters,
        "tokens": tokens,
        "source": _in_short(data["source"]),
        "length": data["sequence_length"],
        "documents": counted(data.get("validation_documents", 0), "document"),
        "held_out": data.get("validation_tokens"),
        "last_steps": last_steps(curves),
    }


def _seeds_in_words(first: int, of_weights: Mapping[str, int]) -> str:
    """Name the seeds of which the page shows routing: the first, for its logs, and those of the models' weights."""
    if {first} >= {*of_weights.values()}:
        return str(first)
    return f"{', '.join(f'{label}: {seed}' for label, seed in of_weights.items())}; over training: {first}"


def _in_short(source: str) -> str:
    """Describe the data in a few words: of a long list of files the first and the last."""
    parts = source.split(", ")
    return f"{parts[0]}, {parts[1]} ... {parts[-1]} ({len(parts)} in all)" if len(parts) > 3 else source


def _is_from_scratch_on_text(summary: dict[str, Any]) -> bool:
    return "base" not in summary and "validation_tokens" in summary["data"]


def _loss_tiles(results: Records) -> dict[str, tuple[str, str]]:
    """The tile of each model: its held-out loss."""
    tiles = {}
    for row in results:
        note = f"perplexity {row['eval_perplexity']:.1f}"
        if row["standard_deviation"] is not None:
            note = f"± {row['standard_deviation']:.3f} between seeds"
        if row["trained_parameters"] is not None:
            note = f"{row['trained_parameters']:,} trained parameters"
        tiles[row["model"]] = (thousandths(row["eval_loss"]), f"held-out loss · {note}")
    return tiles
