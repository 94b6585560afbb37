"""Time and memory of each case beside its baseline, and the bytes saved for the backward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from limelm.benchmark.cases import Case, NativeCase
from limelm.benchmark.compilation import allocated_in_training, compiled_work
from limelm.benchmark.costs import cache_bytes_per_token
from limelm.benchmark.shape import Inputs
from limelm.benchmark.timing import interleave
from limelm.benchmark.workloads import COMPILE, TRAINS, WORKLOADS, Work, begin_training
from limelm.environment import free_memory
from limelm.planning.peak_memory import peak_training_memory, saved_for_backward
from limelm.progress import progress_bar
from limelm.records import Record, Records

Tables = dict[str, Records]


@dataclass(frozen=True)
class Conditions:
    """How everything is measured.

    Attributes:
        rounds: how often each work is timed.
        is_compiled: by `torch.compile`, both sides.
    """

    rounds: int
    device: torch.device
    dtype: torch.dtype
    is_compiled: bool = False


def compare(cases: Sequence[Case], tasks: Sequence[str], conditions: Conditions) -> Iterator[Tables]:
    """Time each case and its baseline interleaved, and measure their memory.

    Args:
        tasks: names of `WORKLOADS`.

    Yields:
        After each case all so far: "times", a record per case and task with the fields of `Timing.beside` and
        `tokens_per_second`, of decoding also `cache_bytes` per token and `cache_ratio`; and, where a task trains,
        "memory", a record per case and such task, and one per baseline, with their memory and the bandwidth that the
        case's routing reaches.
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
                times.append(time_case(case, task, conditions))
                progress.update()
            full = (case.baseline.name, "train")
            if training and full not in memory:
                memory[full] = memory_of(case.baseline, "train", None, conditions)
            for task in training:
                progress.set_postfix_str(f"{case.name}, memory of {task}")
                memory[case.name, task] = memory_of(case, task, memory[full], conditions)
                progress.update()
            yield {"times": list(times), **({"memory": list(memory.values())} if memory else {})}


def compare_depths(cases: Sequence[NativeCase], depths: Sequence[int], conditions: Conditions) -> Iterator[Tables]:
    """The training step of each case at each depth beside LLaMA's.

    Yields:
        After each case at each depth all so far: "depths", records as the times of `compare`, with `layers`.
    """
    records: Records = []
    with progress_bar("bench depths", "measurement", total=len(cases) * len(depths), disable=None) as progress:
        for layers in depths:
            for case in cases:
                progress.set_postfix_str(f"{case.name}, {layers} layers")
                record = time_case(case.at(case.inputs.with_layers(layers)), "train", conditions)
                records.append({"layers": layers, **record})
                progress.update()
                yield {"depths": records}


def time_case(case: Case, task: str, conditions: Conditions) -> Record:
    """One record of `compare`: the case and its baseline, interleaved."""
    works, facts = _works([case.baseline, case], task, conditions)
    baseline, own = interleave(works, conditions.rounds, conditions.device)
    del works
    free_memory()
    return {
        "case": case.name,
        "baseline": case.baseline.name,
        "task": task,
        **own.beside(baseline),
        **facts,
        "tokens_per_second": WORKLOADS[task][1](case.inputs) / own.median,
    }


def _works(cases: Sequence[Case], task: str, conditions: Conditions) -> tuple[list[Work], Record]:
    """The work of a baseline and a case, and what a record says of their caches and of how they were compiled."""
    models = [(case.model(conditions.device, conditions.dtype), case.inputs) for case in cases]
    facts: Record = {}
    if task == "decode":
        baseline_bytes, own_bytes = (cache_bytes_per_token(model, inputs.decode_from) for model, inputs in models)
        facts = {"cache_bytes": own_bytes, "cache_ratio": own_bytes / baseline_bytes}
    if not conditions.is_compiled:
        return [WORKLOADS[task][0](model, inputs) for model, inputs in models], facts
    torch._dynamo.reset()  # a compiler keeps few versions of the same code, and the ones before are not used again
    (baseline, baseline_graphs), (own, graphs) = (compiled_work(task, model, inputs) for model, inputs in models)
    return [baseline, own], {"graphs": graphs, "baseline_graphs": baseline_graphs, **facts}


def memory_of(case: Case, task: str, baseline: Record | None, conditions: Conditions) -> Record:
    """One record of `compare`: peak of a training step and bytes saved for the backward, beside the baseline's.

    The model is alone on the device.

    Args:
        task: of `TRAINS`.
        baseline: its baseline's record, None for the baseline itself.
    """
    model = begin_training(case.model(conditions.device, conditions.dtype), task)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    memory = _training_memory(model, case.inputs, conditions.is_compiled)
    del model
    free_memory()
    return {
        "case": case.name,
        "task": task,
        "trained_parameters": trained,
        **memory,
        **{f"{key}_ratio": value / (baseline or memory)[key] for key, value in memory.items()},
        **({} if conditions.is_compiled else case.bandwidth(conditions.device, conditions.dtype)),
    }


def _training_memory(model: PreTrainedModel, inputs: Inputs, is_compiled: bool) -> dict[str, int]:
    if is_compiled:
        torch._dynamo.reset()
        model.compile(**COMPILE)
        return allocated_in_training(model, inputs)
    return {
        "saved_for_backward_bytes": saved_for_backward(model, inputs.batch_size, inputs.sequence_length),
        "peak_training_bytes": peak_training_memory(model, inputs.batch_size, inputs.sequence_length),
    }
