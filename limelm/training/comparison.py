"""The main job: train a recipe's models side by side, on the same data in the same order.

A run's folder holds `run.json` (the resolved recipe and the data's hash), `data/`, `models/NAME/` and `summary.json`.
Models that are done are kept: started again in the same folder, a run goes on with what is missing. What is missing
shows from the results alone, so a run can be killed at any moment, moved and copied.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.files import write_text
from limelm.training.data import DATA, describe_data, open_data, own_data, prepare_data
from limelm.training.models import check_data
from limelm.training.planning.fit import require_memory
from limelm.training.processes import this_process
from limelm.training.recipe import Recipe
from limelm.training.result import read_result
from limelm.training.run import check_trackers, train_model
from limelm.training.run_folder import RUN, read_run, refuse_other_run
from limelm.training.summary import MODELS, SUMMARY, is_up_to_date, summarize_run


def reproduce(
    recipe: Recipe,
    out: Path,
    models: list[str] | None = None,
    data: Path | None = None,
    report_to: Sequence[str] = (),
) -> list[str]:
    """Train the models that `out` does not hold yet, and bring `out/summary.json` up to date.

    Args:
        models: names in the recipe, or ["all"]; by default the recipe's `compare`.
        data: a prepared folder; by default the recipe's own text is prepared into `out/data`.
        report_to: see `train_model`.

    Returns:
        The names of the models that were trained now; none where the run was complete.

    Raises:
        UserError: for bad input, before any work; or where `out` holds another run.
        Stopped: when a signal asked for it, after a checkpoint.
    """
    check_trackers(report_to)
    names = recipe.select(models)
    for name in names:
        recipe.check_model(name)
    if data is not None:
        check_data(recipe, open_data(recipe, data)[0], data)  # so that bad data is refused before any work
    run = {"data": own_data(recipe) if data is None else "a prepared folder (--data)", "recipe": recipe.published()}
    _check_same_run(out, run)
    vocab_size = recipe.data.vocab_size if data is None else describe_data(recipe, data)["vocab_size"]
    for name in names:
        if read_result(out / MODELS / name) is None:
            require_memory(recipe, name, vocab_size)
    if data is None:
        _write_json(out / RUN, {"run": run})  # before the data, which it has made its own
        data = prepare_data(recipe, out / DATA)
    described = describe_data(recipe, data)
    run["data_sha256"] = described["content_sha256"]
    _check_same_run(out, run)
    _write_json(out / RUN, {"run": run})

    folders = {name: out / MODELS / name for name in names}
    missing = {name: folder for name, folder in folders.items() if read_result(folder) is None}
    for name, folder in missing.items():
        train_model(recipe, name, data, folder, report_to)
    summary = summarize_run(recipe, out, described)
    if not is_up_to_date(out, summary):
        _write_json(out / SUMMARY, summary)
    return list(missing)


def seed_folders(recipe: Recipe, out: Path, count: int) -> dict[int, Path]:
    """List the seeds, from the recipe's own upwards, and the folder of each seed's run.

    Raises:
        UserError: where they are more than a random generator takes.
    """
    first = recipe.training.seed
    if first + count > 2**32:
        raise UserError(f"training.seed={first} with --seeds {count}: the last seed must be less than {2**32}")
    return {seed: out / f"seed-{seed}" for seed in range(first, first + count)}


def reproduce_seeds(
    recipe: Recipe,
    out: Path,
    count: int,
    models: list[str] | None = None,
    data: Path | None = None,
    report_to: Sequence[str] = (),
) -> list[str]:
    """Train every model with each of `count` seeds, a run of its own in `out/seed-N`, all on the same text.

    Within a seed, every model sees the same data in the same order and starts from the same values where it shares a
    parameter; between seeds both differ. Runs that are done are kept.

    Args:
        models, data, report_to: see `limelm.training.reproduce`; the recipe's own text is prepared into `out/data`.

    Returns:
        Seed and name of the models that were trained now; none where all was complete.

    Raises:
        UserError: as `reproduce`, or where `out` holds a run of one seed.
        Stopped: when a signal asked for it, after a checkpoint.
    """
    if (out / RUN).exists():
        raise UserError(f"{out}: holds a run of one seed; name a new folder for --seeds {count}")
    check_trackers(report_to)
    folders = seed_folders(recipe, out, count)
    if data is None:
        own_data(recipe)  # refused where there is none
    for name in recipe.select(models):
        recipe.check_model(name)
        if data is None and not out.exists():
            require_memory(recipe, name, recipe.data.vocab_size)
    if data is None:
        data = prepare_data(recipe, out / DATA)
    trained = []
    for seed, folder in folders.items():
        names = reproduce(recipe.with_training(seed=seed), folder, models, data, report_to)
        trained += [f"{seed} {name}" for name in names]
    return trained


def _write_json(path: Path, content: Any) -> None:
    """Write a file from one process, after all processes have read the earlier one; all may read it afterwards."""
    this_process().wait_for_everyone()
    if this_process().is_main_process:
        write_text(path, json.dumps(content, indent=2) + "\n")
    this_process().wait_for_everyone()


def _check_same_run(out: Path, wanted: dict[str, Any]) -> None:
    """Refuse a folder that holds something else, or a run with other settings."""
    recorded = read_run(out)
    if recorded is None:
        return
    # A run may go on with another engine and words, with models that only one side knows, and with data made since.
    may_differ: list[tuple[str, ...]] = [("recipe", key) for key in ("name", "description", "compare", "engine")]
    sides = [side.get("recipe", {}).get("models", {}) for side in (recorded, wanted)]
    may_differ += [("recipe", "models", name) for name in sides[0].keys() ^ sides[1].keys()]
    if not ("data_sha256" in recorded and "data_sha256" in wanted):
        may_differ.append(("data_sha256",))
    refuse_other_run(out, recorded, wanted, may_differ)
