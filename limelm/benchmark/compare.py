"""Each case beside the LLaMA of its shape: time, memory, and what the backward keeps."""

import gc
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from limelm.benchmark.bandwidth import copy_bandwidth, routing_bandwidth
from limelm.benchmark.cases import CASES, Case, Shape
from limelm.benchmark.timing import interleave
from limelm.benchmark.workloads import WORKLOADS
from limelm.training.memory import peak_training_memory, saved_for_backward

Records = list[dict[str, Any]]


def compare(
    cases: Sequence[str],
    tasks: Sequence[str],
    shape: Shape,
    rounds: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Records, Records]:
    """Time each case and LLaMA turn about.

    Args:
        cases: names of `CASES`.
        tasks: names of `WORKLOADS`.
        rounds: how often each work is timed.

    Returns:
        One record per case and task: `milliseconds`, `llama_milliseconds`, `ratio` with its quartiles and
        `tokens_per_second`; and one record per case with its memory and the bandwidth that its routing reaches.
    """
    times: Records = []
    with tqdm(total=len(cases) * len(tasks), desc="bench", disable=None, leave=False) as progress:
        for name in cases:
            for task in tasks:
                progress.set_postfix_str(f"{name}, {task}")
                times.append(time_case(CASES[name], task, shape, rounds, device, dtype))
                progress.update()
    baselines = dict.fromkeys(CASES[name].baseline.name for name in cases)
    memory = [memory_of(CASES[name], shape, device, dtype) for name in [*baselines, *cases]]
    copy = copy_bandwidth(device)
    for record in memory:
        case = CASES[record["case"]]
        routed = case.model_type == "lime" and case.options["routing"] != "none" and "naive" not in case.name
        bandwidth = routing_bandwidth(case, shape, device, dtype) if routed else None
        record |= {"routing_bytes_per_second": bandwidth, "copy_bytes_per_second": copy}
    llama = {record["case"]: record for record in memory if record["case"].startswith("llama")}
    for record in memory:
        base = llama[CASES[record["case"]].baseline.name]
        for key in ("peak_training_bytes", "saved_for_backward_bytes"):
            record[f"{key}_ratio"] = record[key] / base[key]
    return times, memory


def compare_depths(
    cases: Sequence[str],
    depths: Sequence[int],
    shape: Shape,
    rounds: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Records:
    """The training step of each case at each depth beside LLaMA's; records as those of `compare`, with `layers`."""
    records: Records = []
    with tqdm(total=len(cases) * len(depths), desc="bench depths", disable=None, leave=False) as progress:
        for layers in depths:
            for name in cases:
                progress.set_postfix_str(f"{name}, {layers} layers")
                record = time_case(CASES[name], "train", shape.with_layers(layers), rounds, device, dtype)
                records.append({"layers": layers, **record})
                progress.update()
    return records


def time_case(
    case: Case, task: str, shape: Shape, rounds: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """One record of `compare`: the case and its LLaMA, turn about."""
    work_of, tokens_of = WORKLOADS[task]
    works = [work_of(each.model(shape, device, dtype), shape) for each in (case.baseline, case)]
    llama, own = interleave(works, rounds, device)
    del works
    _free(device)
    ratio, lower, upper = own.ratio_to(llama)
    return {
        "case": case.name,
        "task": task,
        "milliseconds": 1e3 * own.median,
        "llama_milliseconds": 1e3 * llama.median,
        "ratio": ratio,
        "ratio_lower_quartile": lower,
        "ratio_upper_quartile": upper,
        "tokens_per_second": tokens_of(shape) / own.median,
        "rounds": rounds,
    }


def memory_of(case: Case, shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Peak of a training step and bytes saved for the backward, of a model that is alone on the device."""
    model = case.model(shape, device, dtype).train()
    record = {
        "case": case.name,
        "saved_for_backward_bytes": saved_for_backward(model, shape.batch, shape.tokens),
        "peak_training_bytes": peak_training_memory(model, shape.batch, shape.tokens),
    }
    del model
    _free(device)
    return record


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
