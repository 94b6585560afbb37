"""The main job: train a recipe's models side by side, with each of its seeds, on the same data.

Within a seed all models see the data in the same order and start from the same values where they share a parameter;
between seeds both differ. A run's folder holds `run.json` (the resolved recipe and the data's hash), `data/`, a folder
`seed-42/NAME/` per training, and `summary.json`. Trainings that are done are kept: started again in the same folder, a
run goes on with what is missing, also with more seeds, models or learning rates. What is missing shows from the results
alone, so a run can be killed at any moment, moved and copied; of a finished training `run.json`, `result.json` and the
logs are enough.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limelm.environment import this_process
from limelm.files import write_text
from limelm.planning.fit import require_memory
from limelm.recipes.data import DATA
from limelm.recipes.recipe import Recipe
from limelm.training.places import Diverged, Place, find_outcomes, missing_trainings
from limelm.training.run import check_trackers, prepare_own_data, train_model
from limelm.training.run_folder import FORMAT, RUN, identify, read_run, refuse_other_run
from limelm.training.summary import SUMMARY, is_up_to_date, summarize_run


def reproduce(
    recipe: Recipe,
    out: Path,
    models: list[str] | None = None,
    data: Path | None = None,
    report_to: Sequence[str] = (),
    is_own_data: bool = False,
) -> list[str]:
    """Train the models that `out` does not hold yet, with every seed, and bring `out/summary.json` up to date.

    Args:
        models: names in the recipe, or ["all"]; by default the recipe's `compare`.
        data: a prepared folder; by default the recipe's own data is prepared in `out/data`.
        report_to: see `train_model`.
        is_own_data: `data` is the recipe's own, which another run has prepared.

    Returns:
        The folders in `out` of what was trained now, such as "seed-42/static", or in a search for learning rates
        "learning-rate-0.001/seed-42/static"; none where the run was complete.

    Raises:
        UserError: for bad input, before any work; or where `out` holds another run.
        Stopped: when a signal asked for it, after a checkpoint.
    """
    check_trackers(report_to)
    names = recipe.select(models)
    for name in names:
        recipe.subjects[name].check(recipe.data.sequence_length, recipe.data.vocab_size)
    if data is not None:  # so that bad data is refused before any work
        tokenizer, *_ = recipe.open_data(data)
        for name in names:
            recipe.subjects[name].check_tokenizer(tokenizer, data)
    run = {
        "data": recipe.own_data() if data is None or is_own_data else "a prepared folder (--data)",
        "recipe": recipe.published(),
    }
    _check_same_run(out, run)
    outcomes = find_outcomes(recipe, out)
    vocab_size = recipe.data.vocab_size if data is None else recipe.data.describe(data)["vocab_size"]
    for name in dict.fromkeys(place.name for place in missing_trainings(recipe, names, outcomes)):
        require_memory(recipe, name, vocab_size)
    if data is None:
        _write_json(out / RUN, {"format": FORMAT, "run": run})  # before the data, which it has made its own
        data = prepare_own_data(recipe, out / DATA)
    described = recipe.data.describe(data)
    run["data_sha256"] = described["content_sha256"]
    _check_same_run(out, run)
    for place in outcomes:
        wanted = identify(recipe.of_training(place.seed, place.learning_rate), place.name, described["content_sha256"])
        folder = out / place.folder
        refuse_other_run(folder, read_run(folder) or {}, wanted)
    _write_json(out / RUN, {"format": FORMAT, "run": run})

    trained: list[str] = []
    while missing := missing_trainings(recipe, names, find_outcomes(recipe, out)):  # a search decides what comes next
        for place in missing:
            _train(recipe, place, data, out / place.folder, report_to)
            trained.append(place.folder)
    summary = summarize_run(recipe, out, described)
    if not is_up_to_date(out, summary):
        _write_json(out / SUMMARY, summary)
    return trained


def _train(recipe: Recipe, place: Place, data: Path, folder: Path, report_to: Sequence[str]) -> None:
    """Train one model; in a search its divergence is a result too."""
    try:
        train_model(recipe.of_training(place.seed, place.learning_rate), place.name, data, folder, report_to)
    except Diverged as error:
        if place.learning_rate is None:
            raise
        this_process().wait_for_everyone()
        if this_process().is_main_process:
            error.divergence.save(folder)
        this_process().wait_for_everyone()


def _write_json(path: Path, content: Any) -> None:
    """Write a file from one process, after all processes have read the earlier one; all may read it afterwards."""
    this_process().wait_for_everyone()
    if this_process().is_main_process:
        write_text(path, json.dumps(content, indent=2) + "\n")
    this_process().wait_for_everyone()


def _check_same_run(out: Path, wanted: dict[str, Any]) -> None:
    """Refuse a folder that holds something else, or a run with other settings."""
    recorded = read_run(out, FORMAT)
    if recorded is None:
        return
    # A run may go on with other words and seeds, another engine, models that only one side knows, data made since, and
    # more rates of a search.
    words = ("name", "description", "compare", "seeds", "engine")
    may_differ: list[tuple[str, ...]] = [("recipe", key) for key in words]
    sides = [side.get("recipe", {}).get("models", {}) for side in (recorded, wanted)]
    may_differ += [("recipe", "models", name) for name in sides[0].keys() ^ sides[1].keys()]
    if bool(recorded.get("recipe", {}).get("learning_rates")) == bool(wanted["recipe"]["learning_rates"]):
        may_differ.append(("recipe", "learning_rates"))
    if not ("data_sha256" in recorded and "data_sha256" in wanted):
        may_differ.append(("data_sha256",))
    refuse_other_run(out, recorded, wanted, may_differ)
