"""Each case beside the LLaMA of its shape: time, memory, and what the backward keeps."""

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from limelm.benchmark.bandwidth import copy_bandwidth, routing_bandwidth
from limelm.benchmark.cases import CASES, Case, Shape
from limelm.benchmark.timing import interleave
from limelm.benchmark.workloads import WORKLOADS
from limelm.training.memory import peak_training_memory, saved_for_backward

Records = list[dict[str, Any]]
Tables = dict[str, Records]


def compare(
    cases: Sequence[str],
    tasks: Sequence[str],
    shape: Shape,
    rounds: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tables]:
    """Time each case and LLaMA turn about, and measure their memory.

    Args:
        cases: names of `CASES`.
        tasks: names of `WORKLOADS`.
        rounds: how often each work is timed.

    Yields:
        After each case all so far: "times", a record per case and task with `milliseconds`, `llama_milliseconds`,
        `ratio` with its quartiles and `tokens_per_second`; and "memory", a record per case, and per LLaMA that one is
        compared with, with its memory and the bandwidth that its routing reaches.
    """
    copy = {"copy_bytes_per_second": copy_bandwidth(device)}
    times: Records = []
    memory: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(cases) * (len(tasks) + 1), desc="bench", disable=None, leave=False) as progress:
        for name in cases:
            case, llama = CASES[name], CASES[name].baseline
            for task in tasks:
                progress.set_postfix_str(f"{name}, {task}")
                times.append(time_case(case, task, shape, rounds, device, dtype))
                progress.update()
            progress.set_postfix_str(f"{name}, memory")
            if llama.name not in memory:
                memory[llama.name] = memory_of(llama, None, shape, device, dtype) | copy
            memory[name] = memory_of(case, memory[llama.name], shape, device, dtype) | copy
            progress.update()
            yield {"times": list(times), "memory": list(memory.values())}


def compare_depths(
    cases: Sequence[str],
    depths: Sequence[int],
    shape: Shape,
    rounds: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tables]:
    """The training step of each case at each depth beside LLaMA's.

    Yields:
        After each case at each depth all so far: "depths", records as the times of `compare`, with `layers`.
    """
    records: Records = []
    with tqdm(total=len(cases) * len(depths), desc="bench depths", disable=None, leave=False) as progress:
        for layers in depths:
            for name in cases:
                progress.set_postfix_str(f"{name}, {layers} layers")
                record = time_case(CASES[name], "train", shape.with_layers(layers), rounds, device, dtype)
                records.append({"layers": layers, **record})
                progress.update()
                yield {"depths": records}


def time_case(
    case: Case, task: str, shape: Shape, rounds: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """One record of `compare`: the case and its LLaMA, turn about."""
    work_of, tokens_of = WORKLOADS[task]
    works = [work_of(each.model(shape, device, dtype), shape) for each in (case.baseline, case)]
    llama, own = interleave(works, rounds, device)
    del works
    _free(device)
    return {
        "case": case.name,
        "task": task,
        **own.beside(llama),
        "tokens_per_second": tokens_of(shape) / own.median,
    }


def memory_of(
    case: Case, llama: dict[str, Any] | None, shape: Shape, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """One record of `compare`: peak of a training step and bytes saved for the backward, beside LLaMA's; bandwidth.

    The model is alone on the device. `llama` is its LLaMA's record, None for LLaMA itself.
    """
    model = case.model(shape, device, dtype).train()
    memory = {
        "saved_for_backward_bytes": saved_for_backward(model, shape.batch, shape.tokens),
        "peak_training_bytes": peak_training_memory(model, shape.batch, shape.tokens),
    }
    del model
    _free(device)
    routes = case.model_type == "lime" and case.options["routing"] != "none" and "naive" not in case.name
    return {
        "case": case.name,
        **memory,
        "routing_bytes_per_second": routing_bandwidth(case, shape, device, dtype) if routes else None,
        **{f"{key}_ratio": value / (llama or memory)[key] for key, value in memory.items()},
    }


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
