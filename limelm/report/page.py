"""The report of the main job: one self-contained HTML page, with each figure and table as a file beside it."""

import base64
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from limelm.files import write_text
from limelm.report import figures, tables
from limelm.report.figures import Palette
from limelm.report.output import save_figure, write_csv
from limelm.report.tables import Column, Records

REPORT, FIGURES = "report.html", "figures"
PAPER_PARAMETERS, PAPER_TOKENS = 1e9, 40e9  # from here on a run has the paper's scale


@dataclass
class Section:
    """A part of the page: text, and a figure or a table with its records."""

    name: str
    title: str
    text: list[str]
    records: Records
    figure: Figure | None = None
    columns: list[Column] = field(default_factory=list)
    svg: str | None = None


def write_report(out: Path, summary: dict[str, Any], retrieval: dict[str, Records]) -> Path:
    """Write `out/report.html` and `out/figures/*.png, *.svg, *.csv`.

    Args:
        summary: the run's `summary.json`.
        retrieval: the routing models' records by figure, as `limelm.analysis.measure_retrieval` returns them.

    Returns:
        The page's path.
    """
    palette = Palette([entry["label"] for entry in summary["models"]])
    sections = _sections(summary, retrieval, palette)
    folder = out / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        write_csv(folder / f"{section.name}.csv", section.records)
        if section.figure is not None:
            section.svg = base64.b64encode(save_figure(section.figure, folder / section.name)).decode()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        (resources.files("limelm.report") / "templates" / "report.html").read_text(encoding="utf-8")
    )
    page = template.render(
        title=f"LIMe side by side: the {summary['scale']} run",
        lead=_lead(summary),
        tiles=[
            {
                "label": entry["label"],
                "color": palette[entry["label"]],
                "value": f"{entry['eval_loss']:.3f}",
                "note": f"held-out loss · perplexity {entry['eval_perplexity']:.1f}",
            }
            for entry in summary["models"]
        ],
        cautions=_cautions(summary),
        sections=sections,
        facts=[*((f"data: {key}", value) for key, value in summary["data"].items()), *summary["environment"].items()],
    )
    path = out / REPORT
    write_text(path, page)
    return path


def _lead(summary: dict[str, Any]) -> str:
    data = summary["data"]
    tokens = summary["models"][0]["train_tokens"]
    return (
        f"{len(summary['models'])} models, each trained from scratch on the same {tokens:,} tokens of {data['source']} "
        f"in the same order, sequences of {data['sequence_length']} tokens. Parameters that a model shares with LLaMA "
        "start at the same values."
    )


def _cautions(summary: dict[str, Any]) -> list[str]:
    data = summary["data"]
    tokens = summary["models"][0]["train_tokens"]
    parameters = max(entry["parameters"] for entry in summary["models"])
    environments = [entry["environment"] for entry in summary["models"]]
    mixed = ["The models were not all trained in the same environment: do not compare their speed."]
    smaller = [
        f"Small scale: {parameters:,} parameters and {tokens:,} tokens are far from the paper's 1.2 billion and 41.9 "
        "billion. Early in training a faster start shows, not a better end."
    ]
    return [
        *(mixed if any(other != environments[0] for other in environments) else []),
        "One seed. How much a loss moves from seed to seed is not measured here, so small gaps may be luck.",
        *(smaller if parameters < PAPER_PARAMETERS or tokens < PAPER_TOKENS else []),
        f"Held out are {data['validation_documents']:,} documents with {data['validation_tokens']:,} tokens. Losses on "
        "them can be compared with each other, but other text may give another gap.",
        "Speed and memory are those of this machine in this run; a ratio within a few percent is noise. `limelm bench` "
        "measures them side by side.",
        "Routing weights after few steps still carry their initialisation: a static router starts near uniform.",
    ]


def _sections(summary: dict[str, Any], retrieval: dict[str, Records], palette: Palette) -> list[Section]:
    curves = tables.loss_curves(summary)
    results, results_columns = tables.results(summary)
    efficiency, efficiency_columns = tables.efficiency(summary)
    paper, paper_columns = tables.paper_scale()
    sections = [
        Section(
            "loss_against_flops",
            "Loss against FLOPs (the paper's Figure 1)",
            [
                "Every model takes the same number of steps; one that costs more per token ends further to the right. "
                "Compare the curves at the same FLOPs, not only at their ends."
            ],
            curves,
            figures.loss_against_flops(curves, palette),
        ),
        Section(
            "results",
            "Held-out loss and perplexity",
            ["Mean cross-entropy in nats per token over the held-out documents; lower is better."],
            results,
            columns=results_columns,
        ),
        Section(
            "efficiency",
            "Efficiency in this run (Table 6)",
            [
                "FLOPs are of a forward pass, two per multiply-add of matrix products, attention over the full square. "
                "The paper counts a multiply-add outside attention as one; that figure stands beside. Memory is the "
                "peak of a training step, speed that of the median step; each with its ratio to LLaMA."
            ],
            efficiency,
            columns=efficiency_columns,
        ),
        Section(
            "paper_scale",
            "Efficiency at the paper's 1.2 B shape, beside its Table 6",
            [
                "Our counts are exact, from the models themselves on the meta device. The paper's +0.075 % for LIMe "
                "dynamic is a misprint of +0.754 %; its +0.3 % and +0.008 % for LIMe static come from rounded figures. "
                "Its caption calls D the hidden size, and then (L-1)BTHD for LIMe static is more than the extra memory "
                "of Hyper-Connections, not less. The row for LIMe KV is from the paper's second version."
            ],
            paper,
            columns=paper_columns,
        ),
    ]
    if not retrieval["weights"]:
        return sections
    return [
        *sections,
        Section(
            "mean_retrieval",
            "What is retrieved: mean weight by representation (Figure 2)",
            [
                "Representation 0 is the token embedding, m the output of layer m - 1. The dashed line is what routers "
                "without preferences would give. Dynamic weights are averaged over held-out tokens; for LIMe KV the "
                "share of absolute weight is shown."
            ],
            retrieval["mean_retrieval"],
            figures.mean_retrieval(retrieval["mean_retrieval"], palette),
        ),
        Section(
            "self_retrieval",
            "Self-retrieval per head (Figure 3)",
            ["How much each head (thin lines; their mean thick) takes from its layer's own input. Dashed: uniform."],
            retrieval["self_retrieval"],
            figures.self_retrieval(retrieval["self_retrieval"], palette),
        ),
        Section(
            "expected_source",
            "Expected retrieved representation (Figure 4)",
            [
                "Which representation a layer retrieves on average: high is recent, low is early. The shade spans the "
                "heads. A Llama would lie on the dotted line."
            ],
            retrieval["expected_source"],
            figures.expected_source(retrieval["expected_source"], palette),
        ),
        *_top_p_sections(summary),
        Section(
            "weights",
            "All retrieval weights (Figure 13)",
            ["Each band is a layer, each row in it a head. Dynamic weights are averaged over held-out text."],
            retrieval["weights"],
            figures.weight_heatmaps(retrieval["weights"]),
        ),
        *_entropy_section(summary),
    ]


def _top_p_sections(summary: dict[str, Any]) -> list[Section]:
    pruned, pruned_columns = tables.pruned_weights(summary)
    if not pruned:
        return []
    retrieved = tables.retrieval_under_top_p(summary)
    return [
        Section(
            "pruned_weights",
            "Pruned routing weights (Table 5)",
            [
                "How many routing weights top-p leaves out at the end of training. Layer r has one per head and "
                "representation 0 to r, H (L(L+1)/2 - 1) in all. The totals that the paper prints are H L (L-1), the "
                "size of one array for all layers with the short rows filled up with zeros; both are here. At 32, 64 "
                "and 128 layers with 8 heads and top-p 0.9 it prints 1,845 of 7,936 (23 %), 6,795 of 32,256 (21 %) and "
                "24,632 of 130,048 (19 %); of the 4,216, 16,632 and 66,040 weights that there are, that would be "
                "43.8 %, 40.9 % and 37.3 %."
            ],
            pruned,
            columns=pruned_columns,
        ),
        Section(
            "retrieval_under_top_p",
            "Retrieval statistics under top-p (Figure 9)",
            [
                "Green: the weight on representation n, the input of layer n, mean over heads and over the layers from "
                "n on, which can read it. Orange: the weight of layer n on its own input, mean over heads; 1 would be "
                "ordinary self-attention. Pruned weights count as zero."
            ],
            retrieved,
            figures.retrieval_under_top_p(retrieved),
        ),
    ]


def _entropy_section(summary: dict[str, Any]) -> list[Section]:
    entropies = tables.router_entropy(summary)
    if not entropies:
        return []
    return [
        Section(
            "router_entropy",
            "How sharply the routers choose, over training",
            [
                "Entropy of a head's routing weights, mean over heads, as a part of its maximum: 1 is uniform over all "
                "representations that the layer reads, 0 a single one. Dynamic weights are averaged over held-out "
                "tokens first; for LIMe KV the shares of absolute weight are taken."
            ],
            entropies,
            figures.router_entropy(entropies),
        )
    ]
