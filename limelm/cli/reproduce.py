"""`limelm reproduce`: the main job and its report."""

import argparse
import json
from pathlib import Path

from limelm.cli.types import model_names, positive_int, seed

DESCRIPTION = """\
Train several models from scratch, side by side: the same text in the same order, from the same initial values where
they share a parameter. Writes OUT/summary.json, OUT/report.html (open it in a browser), OUT/figures/ and one
checkpoint per model under OUT/models/.

Started again with the same OUT, it goes on with the models that are missing, and adds those that --models names anew.
"""

EPILOG = """\
models of the scale "tiny": llama, hc (Hyper-Connections), static, dynamic (trained by default), kv, top-p

examples:
  limelm reproduce --scale tiny --out demo
  limelm reproduce --scale tiny --out demo --models all          add LIMe KV and top-p to the four
  limelm reproduce --scale my-recipe.toml --data my-tokens --out my-run
"""


def add_parser(subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "reproduce",
        help="train the models side by side and write a report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--scale", required=True, help="a recipe's name (tiny), or the path of a recipe's .toml file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; made where it is missing")
    parser.add_argument(
        "--models",
        type=model_names,
        nargs="+",
        metavar="NAME",
        help="which of the recipe's models to train, or all (default: the recipe's comparison)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder made by `limelm data prepare` (default: the Python library)"
    )
    parser.add_argument("--steps", type=positive_int, help="training steps, instead of the recipe's")
    parser.add_argument("--seed", type=seed, help="random seed, instead of the recipe's")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train what is missing, then measure and report."""
    from limelm.analysis import measure_retrieval
    from limelm.cli.quiet import quieten
    from limelm.report import REPORT, write_report
    from limelm.training import load_recipe, reproduce
    from limelm.training.comparison import SUMMARY

    quieten()
    changes = {"steps": options.steps, "seed": options.seed}
    recipe = load_recipe(options.scale).with_training(**{k: v for k, v in changes.items() if v is not None})
    models = [name for names in options.models for name in names] if options.models else None
    trained = reproduce(recipe, options.out, models, options.data)
    report, summary_file = options.out / REPORT, options.out / SUMMARY
    if not trained and report.is_file() and report.stat().st_mtime_ns >= summary_file.stat().st_mtime_ns:
        print(f"{options.out}: complete, nothing to train. Report: {report}")
        return
    summary = json.loads(summary_file.read_text(encoding="utf-8"))
    page = write_report(options.out, summary, measure_retrieval(summary))
    print(f"{'model':<24}{'parameters':>12}{'held-out loss':>15}{'perplexity':>12}{'tokens/s':>10}")
    for entry in summary["models"]:
        print(
            f"{entry['label']:<24}{entry['parameters']:>12,}{entry['eval_loss']:>15.3f}"
            f"{entry['eval_perplexity']:>12.1f}{entry['tokens_per_second']:>10,.0f}"
        )
    print(f"Report: {page}")
