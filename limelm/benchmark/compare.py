"""Time and memory of each case beside its baseline, and the bytes saved for the backward."""

import gc
from collections.abc import Iterator, Sequence

import torch

from limelm.benchmark.cases import Case, NativeCase
from limelm.benchmark.timing import interleave
from limelm.benchmark.workloads import TRAINS, WORKLOADS, begin_training
from limelm.planning.peak_memory import peak_training_memory, saved_for_backward
from limelm.progress import progress_bar
from limelm.records import Record, Records

Tables = dict[str, Records]


def compare(
    cases: Sequence[Case],
    tasks: Sequence[str],
    rounds: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tables]:
    """Time each case and its baseline interleaved, and measure their memory.

    Args:
        tasks: names of `WORKLOADS`.
        rounds: how often each work is timed.

    Yields:
        After each case all so far: "times", a record per case and task with `milliseconds`, `baseline_milliseconds`,
        `ratio` with its quartiles and `tokens_per_second`; and, where a task trains, "memory", a record per case and
        such task, and one per baseline, with their memory and the bandwidth that the case's routing reaches.
    """
    training = [task for task in tasks if task in TRAINS]
    times: Records = []
    memory: dict[tuple[str, str], Record] = {}
    with progress_bar(
        "bench", "measurement", total=len(cases) * (len(tasks) + len(training)), disable=None
    ) as progress:
        for case in cases:
            for task in tasks:
                progress.set_postfix_str(f"{case.name}, {task}")
                times.append(time_case(case, task, rounds, device, dtype))
                progress.update()
            full = (case.baseline.name, "train")
            if training and full not in memory:
                memory[full] = memory_of(case.baseline, "train", None, device, dtype)
            for task in training:
                progress.set_postfix_str(f"{case.name}, memory of {task}")
                memory[case.name, task] = memory_of(case, task, memory[full], device, dtype)
                progress.update()
            yield {"times": list(times), **({"memory": list(memory.values())} if memory else {})}


def compare_depths(
    cases: Sequence[NativeCase],
    depths: Sequence[int],
    rounds: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tables]:
    """The training step of each case at each depth beside LLaMA's.

    Yields:
        After each case at each depth all so far: "depths", records as the times of `compare`, with `layers`.
    """
    records: Records = []
    with progress_bar("bench depths", "measurement", total=len(cases) * len(depths), disable=None) as progress:
        for layers in depths:
            for case in cases:
                progress.set_postfix_str(f"{case.name}, {layers} layers")
                record = time_case(case.at(case.inputs.with_layers(layers)), "train", rounds, device, dtype)
                records.append({"layers": layers, **record})
                progress.update()
                yield {"depths": records}


def time_case(case: Case, task: str, rounds: int, device: torch.device, dtype: torch.dtype) -> Record:
    """One record of `compare`: the case and its baseline, interleaved."""
    work_of, tokens_of = WORKLOADS[task]
    works = [work_of(each.model(device, dtype), case.inputs) for each in (case.baseline, case)]
    baseline, own = interleave(works, rounds, device)
    del works
    _free(device)
    return {
        "case": case.name,
        "task": task,
        **own.beside(baseline),
        "tokens_per_second": tokens_of(case.inputs) / own.median,
    }


def memory_of(case: Case, task: str, baseline: Record | None, device: torch.device, dtype: torch.dtype) -> Record:
    """One record of `compare`: peak of a training step and bytes saved for the backward, beside the baseline's.

    The model is alone on the device.

    Args:
        task: of `TRAINS`.
        baseline: its baseline's record, None for the baseline itself.
    """
    model, inputs = begin_training(case.model(device, dtype), task), case.inputs
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    memory = {
        "saved_for_backward_bytes": saved_for_backward(model, inputs.batch_size, inputs.sequence_length),
        "peak_training_bytes": peak_training_memory(model, inputs.batch_size, inputs.sequence_length),
    }
    del model
    _free(device)
    return {
        "case": case.name,
        "task": task,
        "trained_parameters": trained,
        **memory,
        **{f"{key}_ratio": value / (baseline or memory)[key] for key, value in memory.items()},
        **case.bandwidth(device, dtype),
    }


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
