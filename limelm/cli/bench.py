"""`limelm bench`: speed and memory beside LLaMA, or of attached routers beside the model that they are attached to."""

import argparse
import dataclasses
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limelm.cli.resources import check_out, find_device
from limelm.cli.types import listed, model_name, positive_int
from limelm.errors import Stopped, UserError
from limelm.records import Records

HELP = "time the models beside LLaMA, or routers beside the model they are attached to, interleaved"
NEEDS = "lab"
SAVES_MEMORY = "--batch, --tokens, --layers, --hidden or --vocab"
DESCRIPTION = """\
Time LIMe, Hyper-Connections and the reference path beside LLaMA in one run: interleaved, after warming up, and report
the median of the round-by-round ratios. Writes OUT/bench.json, CSV tables and figures, anew after each case, in place
of an earlier bench's.

Without --depths and --pruning it compares training step, forward and decoding at one shape; beside the training step it
measures peak memory, the bytes saved for the backward, and the bandwidth that the routing operation reaches beside that
of a copy.

With --attach it compares a pretrained model with itself and routers in it: in training steps of all weights ("train")
and of the routers alone ("train-routers", beside a step of all weights of the model without routers).
"""

EPILOG = """\
cases:
  none, top-p, hc, static, dynamic, kv, each compared with LLaMA; of the last three also
  NAME-grouped: few key/value heads, compared with a LLaMA that has as few
  NAME-reference: routing_backend="reference"
  NAME-bounded: routing over the first two sources and the layer's own
  NAME-triton: routing_backend="triton"

cases with --attach:
  kv, static, dynamic; of these also
  NAME-separate: share_kv=False, a router for keys and one for values
  NAME-bounded: as above
  scale: no routing, each head's keys and values scaled

examples:
  limelm bench --out bench
  limelm bench --cases static,kv --tasks train --rounds 15 --out bench
  limelm bench --depths 8,16,32,64,128 --cases static,kv,static-bounded --batch 1 --out depths
  limelm bench --pruning --layers 128 --batch 1 --out pruning
  limelm bench --preset paper --device cuda --dtype bfloat16 --out gpu
  limelm bench --attach HuggingFaceTB/SmolLM2-135M --tokens 512 --out attached
"""

SIZES = {
    "layers": "decoder layers",
    "hidden": "hidden size D",
    "intermediate": "size of the MLP",
    "heads": "query heads H, and key/value heads of cases that are not grouped",
    "grouped": "key/value heads G of grouped cases",
    "vocab": "size of the vocabulary",
}
INPUTS = {
    "batch": "sequences (default: the preset's; --attach: 1)",
    "tokens": "tokens per sequence (default: the preset's; --attach: 256)",
    "decode-from": "tokens in the cache when decoding is timed (default: the preset's; --attach: 128)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, new or of an earlier bench")
    parser.add_argument(
        "--attach",
        type=model_name,
        metavar="MODEL",
        help="folder or hub name of a pretrained model: compare it with routers in it",
    )
    parser.add_argument("--preset", help="small (default), deep or paper: the shape to start from")
    for name, text in SIZES.items():
        parser.add_argument(f"--{name}", type=positive_int, metavar="N", help=f"{text}, instead of the preset's")
    for name, text in INPUTS.items():
        parser.add_argument(f"--{name}", type=positive_int, metavar="N", help=text)
    parser.add_argument(
        "--cases",
        type=listed,
        help="separated by commas (default: all but NAME-bounded and NAME-triton; --attach: kv, static, dynamic)",
    )
    parser.add_argument(
        "--tasks",
        type=listed,
        help="train, forward, decode, with --attach also train-routers (default: all; --pruning: forward, decode)",
    )
    parser.add_argument("--rounds", type=positive_int, default=7, help="timed rounds of each comparison (default 7)")
    parser.add_argument("--depths", type=_integers, metavar="L,L,...", help="compare the training step at these depths")
    parser.add_argument("--pruning", action="store_true", help="time top-p inference against the share it prunes")
    parser.add_argument("--device", default=None, help="cpu, cuda or cuda:N (default: cuda where there is one)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])


#: An option, one that it leaves no use for, and why.
NOT_TOGETHER = [
    *(("attach", name, "whose model has its own") for name in ("preset", *SIZES, "depths")),
    ("attach", "pruning", "which is another measurement"),
    ("depths", "layers", "which names them itself"),
    ("depths", "tasks", "which times the training step"),
    ("depths", "decode_from", "which times the training step"),
    ("depths", "pruning", "which is another measurement"),
    ("pruning", "cases", "which times top-p"),
]


@dataclass
class Measurement:
    """A measurement whose arguments have been checked.

    Attributes:
        baseline: what the ratios are to.
        facts: what bench.json says of it.
        tables: all so far, anew after each of `total` measurements.
    """

    baseline: str
    facts: dict[str, Any]
    tables: Iterator[dict[str, Records]]
    total: int


def run(options: argparse.Namespace) -> None:
    """Measure, write the files, print the tables."""
    import torch

    from limelm.environment import environment
    from limelm.report.bench import BENCH, tables_as_text, write_bench

    for option, other, reason in NOT_TOGETHER:
        if getattr(options, option) and getattr(options, other):
            raise UserError(f"--{other.replace('_', '-')}: not with --{option}, {reason}")
    device, dtype = find_device(options.device), getattr(torch, options.dtype)
    check_out(options.out, marker=BENCH)
    measurement = (_attached if options.attach else _native)(options, device, dtype)
    facts = {
        "baseline": measurement.baseline,
        **measurement.facts,
        "dtype": options.dtype,
        "device": str(device),
        "rounds": options.rounds,
        "environment": environment(),
    }
    finished = 0
    try:
        for tables in measurement.tables:
            finished += 1
            write_bench(options.out, facts, tables)
    except KeyboardInterrupt:
        if not finished:
            raise Stopped("interrupted; nothing was written", signal.SIGINT) from None
        write_bench(options.out, facts, tables)  # again: the signal may have come while files were written
        kept = f"{options.out} holds {finished} of {measurement.total} measurements"
        raise Stopped(f"interrupted; {kept}", signal.SIGINT) from None
    print(tables_as_text(tables, measurement.baseline))
    print(f"Results: {options.out}")


def _native(options: argparse.Namespace, device, dtype) -> Measurement:
    """The measurement of models built for the purpose, beside LLaMA."""
    from limelm.benchmark.cases import CASES, COMPARED_CASES, DEFAULT_CASES
    from limelm.benchmark.compare import compare, compare_depths
    from limelm.benchmark.memory import check_memory
    from limelm.benchmark.pruning import SPREADS, time_against_pruning
    from limelm.benchmark.shape import PRESETS
    from limelm.benchmark.workloads import NATIVE_WORKLOADS

    preset = PRESETS[_known("--preset", [options.preset or "small"], PRESETS)[0]]
    shape = _given(preset, options)
    _check_shape(shape)
    if options.pruning and shape.layers < 2:
        raise UserError(f"--layers: {shape.layers} must be at least 2 with --pruning")
    names = _known("--cases", options.cases or DEFAULT_CASES, COMPARED_CASES)
    possible_tasks = ["forward", "decode"] if options.pruning else NATIVE_WORKLOADS
    tasks = _known("--tasks", options.tasks or possible_tasks, possible_tasks)
    cases = [CASES[name].at(shape) for name in names]
    _check_backends(cases, device)
    sizes = [f"--{name}" for name in (*SIZES, "batch", "tokens", "decode-from") if name != "grouped"]
    if options.depths:
        deepest = [case.at(shape.with_layers(max(options.depths))) for case in cases]
        check_memory(deepest, ["train"], device, dtype, ["--depths", *sizes[1:]])
        tables = compare_depths(cases, options.depths, options.rounds, device, dtype)
        total = len(cases) * len(options.depths)
    elif options.pruning:
        check_memory([CASES["top-p"].at(shape)], tasks, device, dtype, sizes, models=1 + len(SPREADS))
        tables, total = time_against_pruning(shape, tasks, options.rounds, device, dtype), len(tasks)
    else:
        check_memory(cases, tasks, device, dtype, sizes)
        tables, total = compare(cases, tasks, options.rounds, device, dtype), len(cases)
    facts = {"shape": dataclasses.asdict(shape) | ({"layers": options.depths} if options.depths else {})}
    return Measurement("LLaMA", facts, tables, total)


def _attached(options: argparse.Namespace, device, dtype) -> Measurement:
    """The measurement of routers attached to a model, beside that model."""
    from limelm.adapters import attachment_of
    from limelm.benchmark.attached import ATTACHED_CASES, DEFAULT_ATTACHED_CASES, attached_cases
    from limelm.benchmark.compare import compare
    from limelm.benchmark.memory import check_memory
    from limelm.benchmark.shape import Inputs
    from limelm.benchmark.workloads import WORKLOADS
    from limelm.loading import load_model
    from limelm.provenance import shown_path

    inputs = _given(Inputs(batch=1), options)
    names = _known("--cases", options.cases or DEFAULT_ATTACHED_CASES, ATTACHED_CASES)
    tasks = _known("--tasks", options.tasks or WORKLOADS, WORKLOADS)
    base = load_model(options.attach)
    if attachment_of(base) is not None:
        raise UserError(f"--attach: {options.attach} is an adapter; name the model that it is for")
    cases = attached_cases(base.to(dtype), names, tasks, inputs)
    check_memory(cases, tasks, device, dtype, ["--batch", "--tokens", "--decode-from", "--tasks"])
    facts = {
        "base": {
            "name": shown_path(options.attach),
            "architecture": type(base).__name__,
            "parameters": base.num_parameters(),
        },
        "inputs": dataclasses.asdict(inputs),
    }
    tables = compare(cases, tasks, options.rounds, device, dtype)
    return Measurement(Path(options.attach).resolve().name, facts, tables, len(cases))


def _given(sizes, options: argparse.Namespace):
    """Sizes with those of the command line in place of the defaults."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(sizes)}
    return dataclasses.replace(sizes, **{name: value for name, value in fields.items() if value is not None})


def _integers(text: str) -> list[int]:
    return sorted({positive_int(part) for part in text.split(",")})


def _known(option: str, names, allowed) -> list[str]:

    for name in names:
        if name not in allowed:
            raise UserError(f"{option}: {name!r} is not one of {', '.join(allowed)}")
    return list(dict.fromkeys(names))


def _check_shape(shape) -> None:

    if shape.hidden % shape.heads or (shape.hidden // shape.heads) % 2:
        raise UserError(f"--hidden: {shape.hidden} is not --heads ({shape.heads}) times an even number")
    if shape.heads % shape.grouped:
        raise UserError(f"--grouped: {shape.grouped} does not divide --heads ({shape.heads})")


def _check_backends(cases, device) -> None:
    from limelm.routing import resolve_backend

    for case in cases:
        try:
            resolve_backend(case.options.get("routing_backend", "auto"), device)
        except UserError as error:
            raise UserError(f"--cases: {case.name!r}: {error}") from None
