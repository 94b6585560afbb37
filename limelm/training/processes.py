"""The processes of a training: one per GPU, started by torchrun or accelerate; alone where there is only one."""

import torch
from accelerate import PartialState

from limelm.environment import peak_flops


def this_process() -> PartialState:
    """This process (`process_index`, `num_processes`, `is_main_process`), and a way to wait for the others.

    The first call joins the process group that torchrun or accelerate announce in the environment.
    """
    return PartialState(cpu=not torch.cuda.is_available())


def peak_flops_together(precision: str) -> float | None:
    """The peak FLOP/s of all processes' devices together, in a precision; None if unknown."""
    peak = peak_flops(precision)
    return peak * this_process().num_processes if peak else None
