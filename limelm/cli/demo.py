"""`limelm demo`: the recipe `tiny`, as `limelm reproduce tiny --out demo` trains and reports it."""

import argparse
from pathlib import Path

from limelm.cli import reproduce
from limelm.cli.options import add_shared
from limelm.cli.output import Output
from limelm.cli.recipe_fields import EXPLANATION

HELP = "train four small models on this Python's standard library"
NEEDS = "lab"
KEYS = reproduce.KEYS
SAVES_MEMORY = reproduce.SAVES_MEMORY
RECIPE = "tiny"
DESCRIPTION = f"""\
Train four small models side by side: LLaMA, Hyper-Connections, LIMe static and LIMe dynamic, with about 2.6 M
parameters each. This takes ten minutes on two idle CPU cores, and no network. Open demo/report.html afterwards.

It is the same as limelm reproduce {RECIPE} --out demo, which can continue in the same folder and has more options.

{EXPLANATION}
"""

EPILOG = """\
examples:
  limelm demo
  limelm demo --out demo --models all                           add LIMe KV and top-p to the four
  limelm demo --out shorter --steps 40
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "--out", " (default: demo)", default=Path("demo"), required=False)
    reproduce.add_models_and_seeds(parser)
    add_shared(parser, "--report-to")


def run(options: argparse.Namespace) -> Output | None:
    """Train the models that are missing, then measure and report; None from all processes but the first."""
    return reproduce.run(argparse.Namespace(**{**vars(options), "recipes": [RECIPE], "data": None, "base": None}))
