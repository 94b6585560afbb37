"""`limelm reproduce`: the main job and its report."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limelm.cli.options import add_shared
from limelm.cli.recipe_fields import EXPLANATION, add_text_and_base, all_fields
from limelm.cli.types import integer, listed
from limelm.errors import UserError
from limelm.files import write_text

if TYPE_CHECKING:
    from limelm.training import Recipe

HELP = "train the models side by side and write a report"
NEEDS = "lab"
SAVES_MEMORY = "--micro-batch-size or --sequence-length, or set --activation-checkpointing true"
DESCRIPTION = f"""\
Train several models from scratch, side by side: the same text in the same order, from the same initial values where
they share a parameter. Writes OUT/summary.json, OUT/report.html (open it in a browser), OUT/figures/ and one
checkpoint per seed and model, such as OUT/seed-42/static. Several recipes make one such folder each in OUT.

Started again with the same OUT, it goes on where it was broken off, and adds the models that --models names anew,
and more --seeds.
{EXPLANATION}
"""

EPILOG = """\
models of the recipes "tiny" and "small": llama, hc (Hyper-Connections), static, dynamic, kv, top-p

The recipe "attach" starts from a pretrained model, --from MODEL: base (nothing is trained), scale and lora (baselines
as small as routers), kv, static, dynamic (routers), full, kv-full, static-full (everything is trained). It needs
--data.

The recipes arithmetic-3 to arithmetic-6 and prosqa are reasoning from scratch; each is trained with several
seeds, and asked problems that it has not seen. --worked-steps false leaves the steps before the answer out,
--test-file FILE tests ProsQA on published problems.

examples:
  limelm reproduce tiny --out demo
  limelm reproduce tiny --out demo --models all          add LIMe KV and top-p to the four
  limelm reproduce tiny --out seeds --seeds 5            which models differ, and by how much
  limelm reproduce arithmetic-3 --out reasoning      reasoning from scratch
  limelm reproduce attach --from my-llama --data tokens --seeds 3 --out attach    routers in a pretrained model
  limelm reproduce my-recipe.toml --data my-tokens --out my-run --steps 500
  torchrun --nproc-per-node 8 -m limelm reproduce paper-1.2b --data tokens --out paper --models all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "RECIPE", nargs="+")
    add_shared(parser, "--out", "; made where it is missing")
    add_text_and_base(parser)
    parser.add_argument(
        "--models",
        type=listed,
        metavar="NAME,...",
        help="the recipe's models to train, or all (default: those that it compares)",
    )
    parser.add_argument(
        "--seeds",
        type=integer(1, 1000),
        metavar="N",
        help="train every model with N seeds, and say which models differ (default: as many as the recipe says)",
    )
    add_shared(parser, "--report-to")


@dataclass(frozen=True)
class Job:
    """One recipe of the command.

    Attributes:
        data: a prepared folder; None for the recipe's own data.
    """

    recipe: "Recipe"
    out: Path
    models: list[str] | None
    data: Path | None


def run(options: argparse.Namespace) -> None:
    """Train the models that are missing, then measure and report."""
    from limelm.training import read_summary, reproduce
    from limelm.training.processes import this_process

    for job in _jobs(options):
        trained = reproduce(job.recipe, job.out, job.models, job.data, options.report_to)
        if this_process().is_main_process:
            _report(job, trained, read_summary(job.out))


def _jobs(options: argparse.Namespace) -> list[Job]:
    """List the recipes to run, all checked before the first one starts."""
    from limelm.training import load_recipe
    from limelm.training.data import ProblemData

    seeds = {} if options.seeds is None else {"seeds": str(options.seeds)}
    recipes = [load_recipe(text, all_fields(options) | seeds) for text in options.recipes]
    data, jobs = options.data, []
    for recipe in recipes:
        if isinstance(recipe.data, ProblemData):
            if data is not None:
                raise UserError(f"--data {data}: the problems of {recipe.name} are made by the recipe; leave it out")
            name = recipe.name if recipe.data.worked_steps else f"{recipe.name}-direct"
            job = Job(recipe, options.out / name, options.models, None)
        else:
            out = options.out if len(recipes) == 1 else options.out / recipe.name
            job = Job(recipe, out, options.models, data)
            data = data or out / "data"  # several recipes share their text
        recipe.select(options.models)
        jobs.append(job)
    return jobs


def _report(job: Job, trained: list[str], summary: dict[str, Any]) -> None:
    """Write the page, unless there is one of these very results, and print the results."""
    from limelm.report.by_seed import by_seed
    from limelm.report.html import REPORT, is_made_of
    from limelm.training.data import ProblemData

    page, has_problems = job.out / REPORT, isinstance(job.recipe.data, ProblemData)
    if not trained and is_made_of(page, summary["fingerprint"]):
        print(f"{job.out}: complete, nothing to train. Report: {page}")
    elif job.recipe.base is not None:
        print(_write_adapted(job, by_seed(summary)), f"Report: {page}", sep="\n")
    elif len(summary["seeds"]) > 1:
        print(_write_seeds(job, by_seed(summary)), f"Report: {page}", sep="\n")
    elif not has_problems:
        print(_write_run(job, summary), f"Report: {page}", sep="\n")
    if has_problems:
        _report_problems(job, summary)


def _write_run(job: Job, summary: dict[str, Any]) -> str:
    """Write the page of a run of one seed; gives the table for the terminal, without speeds that do not compare."""
    from limelm.report.by_seed import by_seed
    from limelm.report.columns import Column, as_text, count, number, thousandths
    from limelm.report.page import write_report
    from limelm.report.tables import is_one_environment
    from limelm.training.router_statistics import measure_retrieval

    _, _, held_out = job.recipe.open_data(job.data or job.out / "data")
    (of_seed,) = by_seed(summary).values()
    write_report(job.out, of_seed, measure_retrieval(summary, held_out))
    columns = [
        Column("label", "model"),
        Column("parameters", "parameters", count),
        Column("eval_loss", "held-out loss", thousandths),
        Column("eval_perplexity", "perplexity", number(".1f")),
        Column("tokens_per_second", "tokens/s", number(",.0f")),
    ]
    return as_text(columns if is_one_environment(of_seed) else columns[:-1], of_seed["models"])


def _write_seeds(job: Job, summaries: dict[int, dict[str, Any]]) -> str:
    """Write the page of a comparison over seeds; gives the table for the terminal."""
    from limelm.report.columns import as_text
    from limelm.report.seeds import COLUMNS, write_seeds

    _, losses = write_seeds(job.out, summaries)
    return as_text(COLUMNS, losses, "model", "axis", "mean", "difference", "t_low", "t_high", "verdict")


def _write_adapted(job: Job, summaries: dict[int, dict[str, Any]]) -> str:
    """Write the page of a comparison in a pretrained model; gives the table for the terminal."""
    from limelm.report.adaptation import COLUMNS, write_adaptation
    from limelm.report.columns import as_text

    first = next(iter(summaries.values()))
    routed = [entry["label"] for entry in first["models"] if entry["routing"] is not None]
    _, summary = write_adaptation(job.out, summaries, routed)
    return as_text(COLUMNS, summary, "model", "trained", "mean", "difference", "verdict")


def _report_problems(job: Job, summary: dict[str, Any]) -> None:
    """Score every model on the test problems, unless that was done, and report on all tasks beside `job.out`."""
    from limelm.evaluation.exact_match import EXACT_MATCH, score_run
    from limelm.evaluation.kept import KeptScores, read_kept
    from limelm.report.columns import as_text
    from limelm.report.exact_match import COLUMNS, write_exact_match

    path, fingerprint = job.out / EXACT_MATCH, summary["fingerprint"]
    kept = read_kept(path, KeptScores)
    if kept is None or kept["made_of"] != fingerprint:
        score = score_run(job.out.name, summary, job.out / "data")
        write_text(path, json.dumps({"made_of": fingerprint, **score}, indent=1) + "\n")
    page, accuracies = write_exact_match(job.out.parent)
    print(as_text(COLUMNS, accuracies, "task", "model", "mean", "difference", "verdict"))
    print(f"Report: {page}")
