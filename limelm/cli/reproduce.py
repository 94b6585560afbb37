"""`limelm reproduce`: the main job and its report."""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limelm.cli.options import add_shared
from limelm.cli.output import Output, note
from limelm.cli.recipe_fields import EXPLANATION, add_text_and_base, all_fields
from limelm.cli.types import integer, listed
from limelm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from limelm.records import Record, Records
    from limelm.training import Recipe

HELP = "train the models side by side and write a report"
NEEDS = "lab"
KEYS = ("out", "report", "runs")
MOST_MEASURED = 2e8  # parameters of all models together whose costs are measured for the page
SAVES_MEMORY = "--micro-batch-size or --sequence-length, or set --activation-checkpointing true"
DESCRIPTION = f"""\
Train a recipe's models side by side and compare them. All see the same data in the same order, and start from the same
values where they share a parameter. The command writes OUT/summary.json, OUT/report.html (open it in a browser),
OUT/figures/ and one checkpoint per seed and model, such as OUT/seed-42/static. With several recipes, OUT gets one such
folder for each, and OUT/report.html is about all of them.

If you start it again with the same OUT, it continues where it was interrupted. It also adds models that --models newly
names, and more seeds. A model is trained with the recipe's number of seeds unless --seeds N says more.

With learning_rates in the recipe, or --learning-rates '[5e-4, 1e-3, 2e-3, 5e-3]', each model is trained at every rate
with the first seed, and with the other seeds at its best rate. A training that diverged is reported with its rate.

`limelm recipes --help` shows how to write a recipe of your own.

{EXPLANATION}
"""

EPILOG = """\
models of the recipes from scratch: llama, hc (Hyper-Connections), static, dynamic, kv, top-p; the recipe rivals also
has connections of other papers, which `limelm recipes rivals` lists

The recipe attach starts from a pretrained model, --from MODEL. It needs --data, prepared with that model's tokenizer.

models of the recipe attach:
  base                          nothing is trained
  scale, lora                   baselines as small as routers
  kv, static, dynamic           routers alone are trained
  full, kv-full, static-full    everything is trained
  value-residual, residual-scalars, dense, attnres, delta-attnres, mhc
                                connections of other papers

The recipes arithmetic-3 to arithmetic-6 and prosqa are about reasoning. Each model is trained with several seeds, and
then gets problems that it has not seen. --worked-steps false leaves out the steps before the answer. --test-file FILE
tests ProsQA on published problems.

examples:
  limelm reproduce tiny --out demo
  limelm reproduce tiny --out demo --models all                 add LIMe KV and top-p to the four
  limelm reproduce tiny --out seeds --seeds 5                   which models differ, and by how much
  limelm reproduce tiny --out my-run --data tokens --steps 500 --hidden-size 256
  limelm reproduce my-recipe.toml --out my-run --data tokens
  limelm reproduce arithmetic-3 arithmetic-4 --out reasoning
  limelm reproduce attach --out attach --data tokens --from my-llama --seeds 3
  torchrun --nproc-per-node 8 -m limelm reproduce paper-1.2b --out paper --data tokens --models all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "RECIPE", nargs="+")
    add_shared(parser, "--out", "; made where it is missing")
    add_text_and_base(parser)
    add_models_and_seeds(parser)
    add_shared(parser, "--report-to")


def add_models_and_seeds(parser: argparse.ArgumentParser) -> None:
    """Declare which of a recipe's models are trained, and how often."""
    parser.add_argument(
        "--models",
        type=listed,
        metavar="NAME,...",
        help="the recipe's models to train, or all (default: those that the recipe compares)",
    )
    parser.add_argument(
        "--seeds",
        type=integer(1, 1000),
        metavar="N",
        help="train every model with N seeds, and say which models differ (default: as many as the recipe says)",
    )


@dataclass(frozen=True)
class Job:
    """One recipe of the command, the folder of its run, and a prepared folder, or None for the recipe's own data."""

    recipe: "Recipe"
    out: Path
    data: Path | None


def run(options: argparse.Namespace) -> Output | None:
    """Train the models that are missing, then measure and report; None from all processes but the first."""
    from limelm.environment import this_process
    from limelm.training import read_summary, reproduce

    jobs, runs = _jobs(options), []
    summaries, answers = {}, {}
    for job in jobs:
        is_own = options.data is None
        trained = reproduce(job.recipe, job.out, options.models, job.data, options.report_to, is_own)
        if this_process().is_main_process:
            summary = summaries[job.recipe.name] = read_summary(job.out)
            answers[job.recipe.name] = job.recipe.data.score(job.out, summary, job.data or job.out / "data")
            runs.append(_report(job, trained, summary, answers[job.recipe.name]))
    if not this_process().is_main_process:
        return None
    page = runs[0].facts["report"]
    if len(jobs) > 1:
        page = _report_all(options.out, summaries, answers)
    lines = [*(output.text for output in runs), *([f"Report on all runs: {page}"] if len(jobs) > 1 else [])]
    return Output("\n".join(lines), {"out": options.out, "report": page, "runs": [output.facts for output in runs]})


def _jobs(options: argparse.Namespace) -> list[Job]:
    """List the recipes to run, all checked before the first one starts."""
    from limelm.recipes.data import DATA, Data
    from limelm.recipes.files import load_recipe
    from limelm.training.run_folder import RUN

    seeds = {} if options.seeds is None else {"seeds": str(options.seeds)}
    recipes = [load_recipe(text, all_fields(options) | seeds) for text in options.recipes]
    jobs: list[Job] = []
    prepared: dict[Data, Path] = {}  # by an earlier recipe of the command that reads the same
    if len(recipes) > 1 and (options.out / RUN).exists():
        raise UserError(f"--out: {options.out} is the run of one recipe; name a new folder for several")
    for recipe in recipes:
        if recipe.name in [job.recipe.name for job in jobs]:
            raise UserError(f"RECIPE: {recipe.name}: given twice; the folders of their runs would have one name")
        out = options.out if len(recipes) == 1 else options.out / recipe.name
        recipe.select(options.models)
        if options.data is None:
            recipe.own_data()
        else:
            _check_data(recipe, options.data)
        jobs.append(Job(recipe, out, options.data or prepared.get(recipe.data)))
        prepared.setdefault(recipe.data, out / DATA)
    return jobs


def _check_data(recipe: "Recipe", data: Path) -> None:
    """Refuse data of another kind before any recipe is trained."""
    try:
        recipe.data.describe(data)
    except UserError as error:
        raise UserError(f"recipe {recipe.name}: --data: {error}") from error


def _report(job: Job, trained: list[str], summary: dict[str, Any], answers: "Record | None") -> Output:
    """Write the page of a run, unless there is one of these very results."""
    from limelm.recipes.data import DATA
    from limelm.report.run import results_as_text, write_run
    from limelm.report.sections.answers import answer_records
    from limelm.report.sections.fairness import is_compared_over_seeds
    from limelm.report.sections.results import results
    from limelm.report.writer import REPORT, is_made_of
    from limelm.training.router_statistics import measure_retrieval

    page, state = job.out / REPORT, ""
    _note_missing_seeds(summary)
    if not trained and is_made_of(page, summary["fingerprint"]):
        state = f"{job.out}: complete, nothing to train. "
    else:
        tokenizer, _, held_out = job.recipe.open_data(job.data or job.out / DATA)
        costs = _costs(job.recipe, summary, tokenizer) if is_compared_over_seeds(summary) else []
        write_run(job.out, summary, measure_retrieval(summary, held_out), answers, costs)
    return Output(
        f"{results_as_text(summary, answers)}\n{state}Report: {page}",
        {
            "recipe": job.recipe.name,
            "out": job.out,
            "report": page,
            "seeds": summary["seeds"],
            "trained": trained,
            "results": results(summary),
            "answers": answer_records([answers])["exact_match_summary"] if answers else [],
        },
    )


def _costs(recipe: "Recipe", summary: dict[str, Any], tokenizer: "PreTrainedTokenizerFast") -> "Records":
    """Measure what the models that the page compares cost, each with new weights and a batch of moderate size.

    All are in memory at once, with their optimizers' states; none is measured where that is too much for a page, or on
    another device than they were trained on.
    """
    from limelm.benchmark.costs import measure_costs
    from limelm.benchmark.shape import Inputs
    from limelm.environment import environment
    from limelm.evaluation.seeds import baseline_of, in_all_seeds

    compared = in_all_seeds(summary)
    trained = {each["label"]: each for each in summary["trainings"] if each["label"] in compared}
    if sum(each["parameters"] for each in trained.values()) > MOST_MEASURED:
        note("the models are too large for their costs to be measured here; limelm bench measures them, on a GPU too")
        return []
    if any(each["environment"]["device"] != environment()["device"] for each in trained.values()):
        note("the models were trained on another device, so their costs are not measured here")
        return []
    models = {label: recipe.subjects[each["name"]].build(tokenizer, recipe.training) for label, each in trained.items()}
    length, batch_size = recipe.data.sequence_length, min(recipe.micro_batches(1)[0], Inputs.batch_size)
    inputs = Inputs(batch_size, length, length // 2)
    return measure_costs(models, baseline_of(summary), inputs, recipe.training.precision) if len(models) > 1 else []


def _note_missing_seeds(summary: dict[str, Any]) -> None:
    """Say which models are left out of comparisons, because others have more seeds."""
    seeds = len(summary["seeds"])
    for label, own in Counter(entry["label"] for entry in summary["trainings"]).items():
        diverged = [str(row["seed"]) for row in summary.get("search", ()) if _is_lost_seed(row, label)]
        if diverged:
            note(f"{label}: diverged with seed {', '.join(diverged)} at its best learning rate, so it is not compared")
        elif own < seeds:
            note(f"{label}: {own} of {seeds} seeds, so it is not compared; --seeds {seeds} trains the rest")


def _is_lost_seed(row: "Record", label: str) -> bool:
    return row["label"] == label and row["is_best"] and row["diverged_at"] is not None


def _report_all(out: Path, summaries: dict[str, dict[str, Any]], answers: "dict[str, Record | None]") -> Path:
    """Write the page on all runs, unless there is one of these very results; gives its path."""
    from limelm.report.overview import runs_fingerprint, write_overview
    from limelm.report.writer import REPORT, is_made_of

    if not is_made_of(out / REPORT, runs_fingerprint(summaries)):
        write_overview(out, summaries, {name: kept for name, kept in answers.items() if kept is not None})
    return out / REPORT
