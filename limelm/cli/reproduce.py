"""`limelm reproduce`: the main job and its report."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limelm.cli.parser import add_command
from limelm.cli.recipe_fields import EXPLANATION, add_training_options, all_fields
from limelm.cli.types import listed, number_of_seeds, recipe_name

if TYPE_CHECKING:
    from limelm.training import Recipe

SYNTHETIC_SEEDS = 5

DESCRIPTION = f"""\
Train several models from scratch, side by side: the same text in the same order, from the same initial values where
they share a parameter. Writes OUT/summary.json, OUT/report.html (open it in a browser), OUT/figures/ and one
checkpoint per model under OUT/models/. A scale of several recipes, such as deep, makes one such folder for each in OUT.

Started again with the same OUT, it goes on where it was broken off, and adds models that --models names anew.
{EXPLANATION}
"""

EPILOG = """\
models of the scales "tiny" and "small": llama, hc (Hyper-Connections), static, dynamic, kv, top-p

The scale "attach" starts from a pretrained model, --from MODEL: base (nothing is trained), scale and lora (baselines as
small as routers), kv, static, dynamic (routers), full, kv-full, static-full (everything is trained). It needs --data.

The scale "synthetic" is reasoning from scratch: arithmetic of 3 to 6 operands, and ProsQA; each is trained with several
seeds, and asked problems that it has not seen. --worked-steps false leaves the steps before the answer out,
--test-file FILE tests ProsQA on published problems.

examples:
  limelm reproduce --scale tiny --out demo
  limelm reproduce --scale tiny --out demo --models all          add LIMe KV and top-p to the four
  limelm reproduce --scale tiny --out seeds --seeds 5            which models differ, and by how much
  limelm reproduce --scale synthetic-arithmetic-3 --out reasoning      one task of the scale synthetic
  limelm reproduce --scale attach --from my-llama --data tokens --seeds 3 --out attach    routers in a pretrained model
  limelm reproduce --scale my-recipe.toml --data my-tokens --out my-run --steps 500
  torchrun --nproc-per-node 8 -m limelm reproduce --scale paper --data tokens --out paper --models all
"""


def add_parser(subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the subcommand."""
    parser = add_command(
        subparsers,
        common,
        "reproduce",
        run,
        help="train the models side by side and write a report",
        description=DESCRIPTION,
        epilog=EPILOG,
        memory_settings="--micro-batch-size or --sequence-length, or set --activation-checkpointing true",
    )
    parser.add_argument(
        "--scale",
        type=recipe_name,
        required=True,
        help="tiny, small, deep, paper, synthetic, attach, one recipe of these, or one's own (.toml)",
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
        type=number_of_seeds,
        metavar="N",
        help="train with N seeds, 2 or more, and say which models differ (default: the recipe's one; for synthetic 5)",
    )
    add_training_options(parser)


def run(options: argparse.Namespace) -> None:
    """Train what is missing, then measure and report."""
    from limelm.cli.quiet import quieten
    from limelm.training import load_scale
    from limelm.training.recipe import ProblemRecipe

    quieten()
    recipes = load_scale(options.scale, all_fields(options))
    models = [name for names in options.models for name in names] if options.models else None
    for recipe in recipes:
        recipe.select(models)
    data = options.data
    for recipe in recipes:
        if isinstance(recipe.data, ProblemRecipe):
            name = recipe.name if recipe.data.worked_steps else f"{recipe.name}-direct"
            count = options.seeds or SYNTHETIC_SEEDS
            _reproduce_problems(recipe, options.out / name, count, models, data, options.report_to)
            continue
        out = options.out if len(recipes) == 1 else options.out / recipe.name
        if recipe.base is not None:
            _reproduce_adapted(recipe, out, options.seeds or 1, models, data, options.report_to)
        elif options.seeds:
            _reproduce_seeds(recipe, out, options.seeds, models, data, options.report_to)
        else:
            _reproduce(recipe, out, models, data, options.report_to)
        data = data or out / "data"  # the recipes of a scale share their text


def _reproduce_seeds(
    recipe: "Recipe", out: Path, count: int, models: list[str] | None, data: Path | None, report_to: list[str]
) -> dict[int, dict[str, Any]]:
    """Train and report; gives each seed's summary."""
    from limelm.report import write_seeds
    from limelm.training.processes import this_process

    summaries = _train_seeds(recipe, out, count, models, data, report_to)
    if not this_process().is_main_process:
        return summaries
    page, losses = write_seeds(out, summaries)
    print(f"{'model':<26}{'at equal':<10}{'held-out loss':>15}{'difference':>12}  {'95 % interval':<20}verdict")
    for row in losses:
        line = f"{row['model']:<26}{row['axis']:<10}" + ("" if row["mean"] is None else f"{row['mean']:>15.3f}")
        if row["difference"] is not None:
            line += f"{row['difference']:>+12.3f}  {row['t_low']:+.3f} to {row['t_high']:+.3f}    "
        print(line + (row["verdict"] or ""))
    print(f"Report: {page}")
    return summaries


def _reproduce_adapted(
    recipe: "Recipe", out: Path, count: int, models: list[str] | None, data: Path | None, report_to: list[str]
) -> None:
    """Train in a pretrained model, with one seed or several, and compare."""
    from limelm.report import write_adaptation
    from limelm.training.processes import this_process

    summaries = _train_seeds(recipe, out, count, models, data, report_to)
    if not this_process().is_main_process:
        return
    routed = [recipe.label(name) for name in recipe.models if recipe.adapted(name).routes]
    page, summary = write_adaptation(out, summaries, routed)
    print(f"{'model':<26}{'trained':>10}{'held-out loss':>15}{'difference':>12}  verdict")
    for row in summary:
        difference = "" if row["difference"] is None else f"{row['difference']:+.3f}"
        print(f"{row['model']:<26}{row['trained']:>10,}{row['mean']:>15.3f}{difference:>12}  {row['verdict'] or ''}")
    print(f"Report: {page}")


def _train_seeds(
    recipe: "Recipe", out: Path, count: int, models: list[str] | None, data: Path | None, report_to: list[str]
) -> dict[int, dict[str, Any]]:
    """Train with several seeds; gives each seed's summary."""
    from limelm.training import reproduce_seeds, seed_folders
    from limelm.training.comparison import SUMMARY

    reproduce_seeds(recipe, out, count, models, data, report_to)
    folders = seed_folders(recipe, out, count)
    return {seed: json.loads((folder / SUMMARY).read_text(encoding="utf-8")) for seed, folder in folders.items()}


def _reproduce_problems(
    recipe: "Recipe", out: Path, count: int, models: list[str] | None, data: Path | None, report_to: list[str]
) -> None:
    """Train with several seeds, ask every model the test problems, and report on all tasks beside `out`."""
    from limelm.errors import UserError
    from limelm.evaluation.exact_match import EXACT_MATCH, score_run
    from limelm.files import write_text
    from limelm.report import write_exact_match
    from limelm.training.data import DATA
    from limelm.training.processes import this_process

    if data is not None:
        raise UserError(f"--data {data}: the problems of {recipe.name} are made by the recipe; leave it out")
    summaries = _reproduce_seeds(recipe, out, count, models, None, report_to)
    if not this_process().is_main_process:
        return
    score = score_run(out.name.removeprefix("synthetic-"), summaries, out / DATA)
    write_text(out / EXACT_MATCH, json.dumps(score, indent=1) + "\n")
    page, summary = write_exact_match(out.parent)
    print(f"{'task':<24}{'model':<26}{'right':>8}{'difference':>12}  verdict")
    for row in summary:
        difference = "" if row["difference"] is None else f"{100 * row['difference']:+.1f}"
        print(f"{row['task']:<24}{row['model']:<26}{row['mean']:>8.1%}{difference:>12}  {row['verdict'] or ''}")
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
