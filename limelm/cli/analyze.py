"""`limelm analyze`: the paper's figures and tables about representations and routing, on any checkpoint."""

import argparse
import signal

from limelm.cli.options import add_shared
from limelm.cli.output import Output, note
from limelm.cli.resources import check_out, find_device
from limelm.cli.types import listed, positive_int
from limelm.errors import Stopped
from limelm.text import printable

HELP = "look inside models: routing, entropy, probes, circuits"
NEEDS = "lab"
KEYS = ("out", "report", "models", "measured", "circuits", "notes")
SAVES_MEMORY = "--tokens, --sequence-length or --occurrences"
DESCRIPTION = """\
Look inside models: measure how their representations change with depth, and what LIMe's routers, or the weights of
other connections over depth, retrieve. Figures show several models together. The command writes OUT/report.html, and
every figure as PNG, SVG and CSV under OUT/figures.

CHECKPOINT is a folder, or a name on the Hugging Face hub, of any causal language model (LIMe, Hyper-Connections, Llama,
GPT-2, Qwen, GPT-NeoX, ...), or of an adapter for one. An analysis that a model does not allow is left out, and the
report says why. docs/analysis.md defines every measure and says how it can be misread.
"""

EPILOG = """\
analyses:
  retrieval      what LIMe's routers, or other weights over depth, retrieve (Figures 2, 3, 4, 9, 10, 13, 14, Table 5)
  effects        how much the loss rises when a route is cut, and whether the weights predict it
  circuits       which tokens open which route of a dynamic router (Table 2)
  entropy        matrix entropy of values and hidden states (Figures 5, 11)
  separability   linear probes on close tokens (Figures 7, 12)
  tsne           clouds of the same tokens (Figures 6, 15)
  collapse       effective rank, cosine similarity of neighboring tokens
  cka            alignment of the layers with each other
  logit-lens     what the head would predict from each layer
  gradients      how strongly the loss pulls at the weights of each layer

examples:
  limelm analyze demo/seed-42/* --data demo/data --out analysis
  limelm analyze demo/seed-42/dynamic --data notes.txt --only circuits --out circuits
  limelm analyze HuggingFaceTB/SmolLM2-135M my-lime --data wiki/ --words this,that --out analysis
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "CHECKPOINT", nargs="+")
    add_shared(parser, "--out", ", new or of an earlier analysis")
    add_shared(parser, "--data", " (its validation split), or files and folders of text", nargs="+", required=True)
    parser.add_argument("--only", type=listed, metavar="NAME,...", help="some of the analyses below (default: all)")
    parser.add_argument("--tokens", type=positive_int, metavar="N", help="tokens of the sample (32,768)")
    add_shared(parser, "--sequence-length", " (the context, at most 512)")
    parser.add_argument(
        "--alpha", type=float, metavar="X", help="of the entropy: its order; 1 is the von Neumann entropy (0.5)"
    )
    parser.add_argument("--words", type=listed, metavar="NAME,...", help="close tokens to tell apart (is,are,was,were)")
    parser.add_argument(
        "--occurrences", type=positive_int, metavar="N", help="of each word: how many are used at most (100)"
    )
    parser.add_argument(
        "--probe",
        choices=["logistic", "paper"],
        metavar="NAME",
        help="logistic (default; standardized, trained to convergence) or paper (as in the authors' code)",
    )
    add_shared(parser, "--device")


def run(options: argparse.Namespace) -> Output:
    """Measure one model after the other, and write the report."""
    from dataclasses import asdict

    from limelm.analysis import Settings, analyze
    from limelm.report.analysis import ANALYSIS, write_analysis
    from limelm.report.sections.circuits import shares_above

    check_out(options.out, marker=ANALYSIS)
    given = {
        "analyses": options.only and tuple(options.only),
        "tokens": options.tokens,
        "sequence_length": options.sequence_length,
        "alpha": options.alpha,
        "words": options.words and tuple(options.words),
        "occurrences": options.occurrences,
        "probe": options.probe,
    }
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    analysis = None
    try:
        for so_far in analyze(options.checkpoints, options.data, settings, find_device(options.device)):
            analysis = so_far
    except KeyboardInterrupt:
        if analysis is None:
            raise Stopped("interrupted; nothing was written", signal.SIGINT) from None
        write_analysis(options.out, asdict(analysis))
        done = f"{len(analysis.models)} of {len(options.checkpoints)} models"
        raise Stopped(f"interrupted; {options.out} holds {done}", signal.SIGINT) from None
    assert analysis is not None
    for missing in analysis.notes:
        note(f"{missing['model']}: no {missing['analysis']}: {missing['reason']}")
    page = write_analysis(options.out, asdict(analysis))
    circuits = shares_above(analysis.records.get("circuits", []))
    return Output(
        "\n".join([*map(printable, circuits), f"Report: {page}"]),
        {
            "out": options.out,
            "report": page,
            "models": [model["label"] for model in analysis.models],
            "measured": list(analysis.records),
            "circuits": circuits,
            "notes": analysis.notes,
        },
    )
