"""A lower bound of the memory that a comparison needs, checked against the device's before anything is allocated."""

from collections.abc import Sequence

import torch

from limelm.benchmark.cases import Case
from limelm.benchmark.shape import Shape
from limelm.benchmark.workloads import TRAINS
from limelm.environment import available_memory
from limelm.errors import UserError

GIB = 2**30


def check_memory(
    cases: Sequence[Case],
    tasks: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    options: Sequence[str],
    models: int = 2,
) -> None:
    """Refuse a comparison that the device has no room for.

    Args:
        cases: of which one at a time is measured.
        tasks: names of `limelm.benchmark.workloads.WORKLOADS`.
        options: that make the need smaller, said in the error.
        models: how many models are on the device at a time; a case and its baseline are two.

    Raises:
        UserError: where a case needs more than there is, even by the lowest estimate.
    """
    there = available_memory(device)
    for case in cases:
        for task in tasks:
            needed = least_bytes(case, task, dtype, models)
            if needed > there:
                raise UserError(
                    f"{', '.join(options)}: too large together: {case.name} and its baseline need at least "
                    f"{needed / GIB:,.1f} GiB for {task!r}, and {device} has {there / GIB:,.1f} GiB free"
                )


def least_bytes(case: Case, task: str, dtype: torch.dtype, models: int = 2) -> int:
    """A lower bound of the bytes that a comparison allocates at the same time.

    Of every model the weights, and where it is trained Adam's two moments; of the one whose turn it is also the
    activations, or (a step takes them one after the other) the gradients. Attached routers alone are trained beside a
    baseline of which everything is.
    """
    weights, activations = case.parameters * dtype.itemsize, _activations(case, task, dtype)
    if task not in TRAINS:
        return models * weights + activations
    trained = models if task == "train" else 1
    return (models + 2 * trained) * weights + max(weights, activations)


def _activations(case: Case, task: str, dtype: torch.dtype) -> int:
    """A lower bound of one batch's activations in bytes; for a pretrained model only the token ids are counted."""
    inputs = case.inputs
    tokens = inputs.decode_from if task == "decode" else inputs.batch_size * inputs.sequence_length
    if not isinstance(inputs, Shape):
        return 8 * tokens
    per_layer = inputs.hidden_size + 2 * inputs.intermediate_size  # the residual stream, and both halves of the MLP
    if task in TRAINS:  # every layer's are kept, and the loss has float32 logits (whose gradient may take their place)
        return tokens * (inputs.num_hidden_layers * per_layer * dtype.itemsize + 4 * inputs.vocab_size)
    logits = inputs.vocab_size if task == "decode" else 0  # a forward makes those of the last position only
    return tokens * (per_layer + logits) * dtype.itemsize
