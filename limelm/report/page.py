"""The report of `limelm reproduce`."""

from pathlib import Path
from typing import Any

from limelm.records import Records
from limelm.report import tables
from limelm.report.figures import training
from limelm.report.figures.palette import Palette, palette_of, routes
from limelm.report.html import Section, write_page
from limelm.report.made import how_made
from limelm.report.routing import routing_sections
from limelm.text import counted

PAPER_PARAMETERS, PAPER_TOKENS = 1e9, 40e9  # from here on a run has the paper's scale


def write_report(out: Path, summary: dict[str, Any], retrieval: dict[str, Records]) -> Path:
    """Write `out/report.html` and `out/figures/*.png, *.svg, *.csv`.

    Args:
        summary: of the run, from `limelm.training.read_summary`.
        retrieval: the routing models' records by figure, from `limelm.training.router_statistics.measure_retrieval`;
            empty where none routes.

    Returns:
        The page's path.
    """
    palette = palette_of(summary["models"])
    return write_page(
        out,
        _sections(summary, retrieval, palette),
        title=f"LIMe side by side: the {summary['scale']} run",
        lead=_lead(summary),
        palette=palette,
        tiles={
            entry["label"]: (f"{entry['eval_loss']:.3f}", f"held-out loss · perplexity {entry['eval_perplexity']:.1f}")
            for entry in summary["models"]
        },
        cautions=_cautions(summary, palette),
        facts=how_made([summary]),
        made_of=summary["fingerprint"],
    )


def _lead(summary: dict[str, Any]) -> str:
    data = summary["data"]
    tokens = summary["models"][0]["train_tokens"]
    return (
        f"{counted(len(summary['models']), 'model')}, trained from scratch on {tokens:,} tokens of {data['source']} "
        f"in the same order, in sequences of {data['sequence_length']} tokens. Parameters that models have in common "
        "start at the same values."
    )


def _cautions(summary: dict[str, Any], palette: Palette) -> list[str]:
    data = summary["data"]
    tokens = summary["models"][0]["train_tokens"]
    parameters = max(entry["parameters"] for entry in summary["models"])
    mixed = [
        "The models were not all trained in the same environment: do not compare their speed and memory, whose ratios "
        "are left blank."
    ]
    smaller = [
        f"Small scale: {parameters:,} parameters and {tokens:,} tokens are far from the paper's 1.2 billion and 41.9 "
        "billion. Early in training a faster start shows, not a better end."
    ]
    return [
        *([] if tables.is_one_environment(summary) else mixed),
        "One seed. How much a loss moves from seed to seed is not measured here, so small gaps may be luck.",
        *(smaller if parameters < PAPER_PARAMETERS or tokens < PAPER_TOKENS else []),
        f"Held out: {counted(data['validation_documents'], 'document')} with {data['validation_tokens']:,} tokens. "
        "Losses there can be compared with each other, but other text may give another gap.",
        "Speed and memory are those of this machine in this run; a ratio within a few percent is noise. limelm bench "
        "measures them side by side.",
        *(["Routing weights after few steps still carry their initialization."] if routes(palette) else []),
    ]


def _sections(summary: dict[str, Any], retrieval: dict[str, Records], palette: Palette) -> list[Section]:
    curves = tables.loss_curves(summary)
    results, results_columns = tables.results(summary, curves)
    efficiency, efficiency_columns = tables.efficiency(summary)
    paper, paper_columns = tables.paper_scale()
    return [
        Section(
            "loss_against_flops",
            "Loss against FLOPs (the paper's Figure 1)",
            "Every model takes the same number of steps; one that costs more per token ends further to the right. "
            "Compare the curves at the same FLOPs, not only at their ends.",
            curves,
            training.loss_against_flops(curves, palette),
        ),
        Section(
            "results",
            "Held-out loss and perplexity",
            "Mean cross-entropy in nats per token over the held-out documents; lower is better.",
            results,
            columns=results_columns,
        ),
        Section(
            "efficiency",
            "Efficiency in this run (Table 6)",
            "FLOPs are of a forward pass, two per multiply-add of matrix products, attention over the full square. "
            "The paper counts a multiply-add outside attention as one; that figure stands beside. Memory is the "
            "peak of a training step, speed that of the median step; each with its ratio to LLaMA.",
            efficiency,
            columns=efficiency_columns,
        ),
        Section(
            "paper_scale",
            "Efficiency at the paper's 1.2 B shape, beside its Table 6",
            "Our counts are exact, from the models themselves on the meta device. The paper's +0.075 % for LIMe "
            "dynamic is a misprint of +0.754 %; its +0.3 % and +0.008 % for LIMe static come from rounded figures. "
            "Its caption calls D the hidden size, and then (L-1)BTHD for LIMe static is more than the extra memory "
            "of Hyper-Connections, not less. The row for LIMe KV is from the paper's second version.",
            paper,
            columns=paper_columns,
        ),
        *routing_sections(retrieval, palette),
        *_entropy_section(summary, palette),
    ]


def _entropy_section(summary: dict[str, Any], palette: Palette) -> list[Section]:
    entropies = tables.router_entropy(summary)
    if not entropies:
        return []
    kinds = {palette.kinds[row["model"]] for row in entropies}
    return [
        Section(
            "router_entropy",
            "How sharply the routers choose, over training",
            [
                "Entropy of a head's routing weights, mean over heads, as a part of its maximum: 1 is uniform over all "
                "representations that the layer reads, 0 a single one.",
                *(["Weights of dynamic routers are averaged over held-out tokens first."] * ("dynamic" in kinds)),
                *(["For LIMe KV the shares of absolute weight are taken."] * ("kv" in kinds)),
            ],
            entropies,
            training.router_entropy(entropies),
        )
    ]
