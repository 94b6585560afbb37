"""Models that `torch.compile` compiles for a comparison: each by itself, before the rounds."""

import os
from collections.abc import Callable

import torch
from torch._dynamo.utils import counters
from torch.autograd.profiler import profile
from transformers import PreTrainedModel

from limelm.benchmark.shape import Inputs
from limelm.benchmark.workloads import COMPILE, WORKLOADS, Work, decoding_compiled
from limelm.errors import UserError


def check_compiler(device: torch.device) -> None:
    """Compile next to nothing.

    Raises:
        UserError: where this machine cannot, as without a C++ compiler or Triton.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as error:  # of many kinds, by what is missing
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"--compile: torch.compile does not work on {device} here: {reason}") from error


def compiled_work(task: str, model: PreTrainedModel, inputs: Inputs) -> tuple[Work, int]:
    """The work of a task by a compiled model, and the number of graphs that it became: 1 where no Python is between.

    It has been done twice, and is not compiled again.
    """
    if task == "decode":
        work = decoding_compiled(model, inputs)
    else:
        model.compile(**COMPILE)
        work = WORKLOADS[task][0](model, inputs)
    before = counters["stats"]["unique_graphs"]
    for _ in range(2):
        work()
    return work, counters["stats"]["unique_graphs"] - before


def allocated_in_training(model: PreTrainedModel, inputs: Inputs) -> dict[str, int]:
    """Bytes that a training step keeps for the backward, and needs at its peak, by the allocator's calls.

    Nothing else sees into compiled code; in eager code these calls add up to what `limelm.planning.peak_memory` counts
    tensor by tensor.

    Args:
        model: in training mode, with gradients for what is trained.
    """
    tokens = torch.zeros(inputs.batch_size, inputs.sequence_length, dtype=torch.long, device=model.device)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, foreach=model.device.type == "cuda")

    def forward() -> torch.Tensor:
        return model(input_ids=tokens, labels=tokens, use_cache=False).loss

    def step() -> None:
        forward().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):  # compiled, and with Adam's moments
        step()
    state = (value for values in optimizer.state.values() for value in values.values())
    lasting = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), *state))
    if model.device.type == "cuda":
        saved, peak = _on_cuda(forward)[0], _on_cuda(step)[1]
    else:
        saved, peak = _on_cpu(forward)[0], lasting + _on_cpu(step)[1]
    return {"saved_for_backward_bytes": saved, "peak_training_bytes": peak}


def _on_cuda(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes that the work leaves allocated, and the most that were, in all."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = work()
    left = torch.cuda.memory_allocated() - before
    del result
    return left, torch.cuda.max_memory_allocated()


def _on_cpu(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes that the work leaves allocated, and the most that it had allocated."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler says on stderr that it begins and ends
    with profile(profile_memory=True) as profiler:
        result = work()
    del result  # only now, as its memory is counted
    assert profiler.kineto_results is not None
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return now, peak
