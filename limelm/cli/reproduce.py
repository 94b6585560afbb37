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

    jobs, summaries, answers = _jobs(options), {}, {}
    for job in jobs:
        trained = reproduce(job.recipe, job.out, job.models, job.data, options.report_to)
        if this_process().is_main_process:
            summary = summaries[job.out.name] = read_summary(job.out)
            scores = _score(job, summary)
            _report(job, trained, summary, scores)
            if scores is not None:
                answers[job.out.name] = scores
    if this_process().is_main_process and any(job.out != options.out for job in jobs):
        _report_all(options.out, summaries, answers)


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


def _score(job: Job, summary: dict[str, Any]) -> dict[str, Any] | None:
    """Score every model on the test problems, unless that was done; None for a recipe without problems."""
    from limelm.evaluation.exact_match import EXACT_MATCH, score_run
    from limelm.evaluation.kept import KeptScores, read_kept
    from limelm.training.data import ProblemData

    if not isinstance(job.recipe.data, ProblemData):
        return None
    path, fingerprint = job.out / EXACT_MATCH, summary["fingerprint"]
    scores = read_kept(path, KeptScores)
    if scores is None or scores["made_of"] != fingerprint:
        scores = {"made_of": fingerprint, **score_run(job.out.name, summary, job.out / "data")}
        write_text(path, json.dumps(scores, indent=1) + "\n")
    return scores


def _report(job: Job, trained: list[str], summary: dict[str, Any], answers: dict[str, Any] | None) -> None:
    """Print the results, and write the page, unless there is one of these very results."""
    from limelm.report.run import results_as_text, write_run
    from limelm.report.writer import REPORT, is_made_of
    from limelm.training.router_statistics import measure_retrieval

    page = job.out / REPORT
    print(results_as_text(summary, answers))
    if not trained and is_made_of(page, summary["fingerprint"]):
        print(f"{job.out}: complete, nothing to train. Report: {page}")
        return
    _, _, held_out = job.recipe.open_data(job.data or job.out / "data")
    write_run(job.out, summary, measure_retrieval(summary, held_out), answers)
    print(f"Report: {page}")


def _report_all(out: Path, summaries: dict[str, dict[str, Any]], answers: dict[str, dict[str, Any]]) -> None:
    """Write the page on all runs, unless there is one of these very results."""
    from limelm.report.overview import runs_fingerprint, write_overview
    from limelm.report.writer import REPORT, is_made_of

    if not is_made_of(out / REPORT, runs_fingerprint(summaries)):
        write_overview(out, summaries, answers)
    print(f"Report on all runs: {out / REPORT}")
