"""Reproduce a recipe with several seeds: a whole run for each, on the same text."""

from collections.abc import Sequence
from pathlib import Path

from limelm.errors import UserError
from limelm.training.comparison import reproduce
from limelm.training.data import DATA, own_data, prepare_data
from limelm.training.planning.here import require_memory
from limelm.training.recipe import Recipe
from limelm.training.run import check_trackers
from limelm.training.run_folder import RUN


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
