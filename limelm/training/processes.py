"""The processes of a training: one per GPU, started by torchrun or accelerate; alone where there is only one."""

import torch
from accelerate import PartialState

from limelm.environment import peak_flops
from limelm.errors import UserError
from limelm.training.recipe import Recipe


def this_process() -> PartialState:
    """This process (`process_index`, `num_processes`, `is_main_process`), and a way to wait for the others.

    The first call joins the process group that torchrun or accelerate announce in the environment.
    """
    return PartialState(cpu=not torch.cuda.is_available())


def peak_flops_together(recipe: Recipe) -> float | None:
    """The peak FLOP/s of all processes' devices together, in the recipe's precision; None if unknown."""
    peak = peak_flops(recipe.training.precision)
    return peak * this_process().num_processes if peak else None


def micro_batches(recipe: Recipe, processes: int) -> tuple[int, int]:
    """Choose sequences per forward, and forwards per process and step, so that a step takes `training.batch_size`.

    The micro-batch is `engine.micro_batch_size`, or less where that does not divide a process's share.

    Raises:
        UserError: where the processes cannot share the batch evenly.
    """
    share, rest = divmod(recipe.training.batch_size, processes)
    if rest or not share:
        raise UserError(
            f"training.batch_size={recipe.training.batch_size} cannot be shared evenly by {processes} processes; "
            "start another number of them"
        )
    largest = min(recipe.engine.micro_batch_size, share)
    size = next(size for size in range(largest, 0, -1) if share % size == 0)
    return size, share // size
