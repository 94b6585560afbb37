"""`limelm reproduce`: the main job and its report."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from limelm.cli.recipe_fields import EXPLANATION, add_training_options
from limelm.cli.types import at_least_two, listed

if TYPE_CHECKING:
    from limelm.training import Recipe

DESCRIPTION = f"""\
Train several models from scratch, side by side: the same text in the same order, from the same initial values where
they share a parameter. Writes OUT/summary.json, OUT/report.html (open it in a browser), OUT/figures/ and one
checkpoint per model under OUT/models/. A scale of several recipes, such as deep, makes one such folder for each in OUT.

Started again with the same OUT, it goes on where it was broken off, and adds models that --models names anew.
{EXPLANATION}
"""

EPILOG = """\
models of the scales "tiny" and "small": llama, hc (Hyper-Connections), static, dynamic, kv, top-p

examples:
  limelm reproduce --scale tiny --out demo
  limelm reproduce --scale tiny --out demo --models all          add LIMe KV and top-p to the four
  limelm reproduce --scale tiny --out seeds --seeds 5            which models differ, and by how much
  limelm reproduce --scale my-recipe.toml --data my-tokens --out my-run --steps 500
  torchrun --nproc-per-node 8 -m limelm reproduce --scale paper --data tokens --out paper --models all
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
    parser.add_argument(
        "--scale", required=True, help="tiny, small, deep, paper, a recipe of one's own (.toml), or one of deep's"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; made where it is missing")
    parser.add_argument(
        "--models",
        type=listed,
        nargs="+",
        metavar="NAME",
        help="which of the recipe's models to train, or all (default: the recipe's comparison)",
    )
    parser.add_argument(
        "--seeds",
        type=at_least_two,
        metavar="N",
        help="train with N seeds, and say which models differ (default: the recipe's one seed)",
    )
    add_training_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train what is missing, then measure and report."""
    from limelm.cli.quiet import quieten
    from limelm.training import load_scale

    quieten()
    recipes = load_scale(options.scale, options.fields)
    models = [name for names in options.models for name in names] if options.models else None
    for recipe in recipes:
        recipe.select(models)
    data = options.data
    for recipe in recipes:
        out = options.out if len(recipes) == 1 else options.out / recipe.name
        if options.seeds:
            _reproduce_seeds(recipe, out, options.seeds, models, data, options.report_to)
        else:
            _reproduce(recipe, out, models, data, options.report_to)
        data = data or out / "data"  # the recipes of a scale share their text


def _reproduce_seeds(
    recipe: "Recipe", out: Path, count: int, models: list[str] | None, data: Path | None, report_to: list[str]
) -> None:
    from limelm.report import write_seeds
    from limelm.training import reproduce_seeds, seed_folders
    from limelm.training.comparison import SUMMARY
    from limelm.training.processes import this_process

    reproduce_seeds(recipe, out, count, models, data, report_to)
    if not this_process().is_main_process:
        return
    folders = seed_folders(recipe, out, count)
    summaries = {seed: json.loads((folder / SUMMARY).read_text(encoding="utf-8")) for seed, folder in folders.items()}
    page, losses = write_seeds(out, summaries)
    print(f"{'model':<26}{'at equal':<10}{'held-out loss':>15}{'difference':>12}  {'95 % interval':<20}verdict")
    for row in losses:
        line = f"{row['model']:<26}{row['axis']:<10}" + ("" if row["mean"] is None else f"{row['mean']:>15.3f}")
        if row["difference"] is not None:
            line += f"{row['difference']:>+12.3f}  {row['t_low']:+.3f} to {row['t_high']:+.3f}    "
        print(line + (row["verdict"] or ""))
    print(f"Report: {page}")


def _reproduce(recipe: "Recipe", out: Path, models: list[str] | None, data: Path | None, report_to: list[str]) -> None:
    from limelm.analysis import measure_retrieval
    from limelm.report import REPORT, write_report
    from limelm.training import reproduce
    from limelm.training.comparison import SUMMARY
    from limelm.training.processes import this_process

    trained = reproduce(recipe, out, models, data, report_to)
    if not this_process().is_main_process:
        return
    report, summary_file = out / REPORT, out / SUMMARY
    if not trained and report.is_file() and report.stat().st_mtime_ns >= summary_file.stat().st_mtime_ns:
        print(f"{out}: complete, nothing to train. Report: {report}")
        return
    summary = json.loads(summary_file.read_text(encoding="utf-8"))
    page = write_report(out, summary, measure_retrieval(summary))
    print(f"{'model':<26}{'parameters':>14}{'held-out loss':>15}{'perplexity':>12}{'tokens/s':>11}")
    for entry in summary["models"]:
        print(
            f"{entry['label']:<26}{entry['parameters']:>14,}{entry['eval_loss']:>15.3f}"
            f"{entry['eval_perplexity']:>12.1f}{entry['tokens_per_second']:>11,.0f}"
        )
    print(f"Report: {page}")
