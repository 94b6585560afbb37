"""`limelm bench`: speed and memory beside LLaMA."""

import argparse
import dataclasses
from pathlib import Path

from limelm.cli.types import model_names, positive_int

DESCRIPTION = """\
Time LIMe, Hyper-Connections and the naive path beside LLaMA in one run: turn about, after warming up, and report the
median of the round-by-round ratios. Writes OUT/bench.json, CSV tables and figures.

Without --depths and --pruning it compares training step, forward and decoding at one shape, with peak memory, the bytes
saved for the backward, and the bandwidth that the routing operation reaches beside that of a copy.
"""

EPILOG = """\
cases:
  llama is the baseline of all; NAME-grouped cases compare with a LLaMA with as few key/value heads
  none, static, dynamic, kv (each also NAME-grouped), top-p, hc
  NAME-bounded: routing over the first two sources and the layer's own; NAME-naive: routing_backend="reference";
  NAME-triton: routing_backend="triton"

examples:
  limelm bench --out bench
  limelm bench --cases static,kv --tasks train --rounds 15 --out bench
  limelm bench --depths 8,16,32,64,128 --cases static,kv,static-bounded --batch 1 --out depths
  limelm bench --pruning --layers 128 --batch 1 --out pruning
  limelm bench --preset paper --device cuda --dtype bfloat16 --out gpu
"""


def add_parser(subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "bench",
        help="time the models beside LLaMA, turn about",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; made where it is missing")
    parser.add_argument("--preset", default="small", help="small (default), deep or paper: the shape to start from")
    for name, text in (
        ("layers", "decoder layers"),
        ("hidden", "hidden size D"),
        ("intermediate", "size of the MLP"),
        ("heads", "query heads H, and key/value heads of cases that are not grouped"),
        ("grouped", "key/value heads G of grouped cases"),
        ("vocab", "size of the vocabulary"),
        ("batch", "sequences"),
        ("tokens", "tokens per sequence"),
        ("decode-from", "tokens in the cache when decoding is timed"),
    ):
        parser.add_argument(f"--{name}", type=positive_int, metavar="N", help=f"{text}, instead of the preset's")
    parser.add_argument(
        "--cases", type=model_names, help="cases, separated by commas (default: all but the last two rows)"
    )
    parser.add_argument(
        "--tasks", type=model_names, help="train, forward, decode (default: all; --pruning: the last two)"
    )
    parser.add_argument("--rounds", type=positive_int, default=7, help="timed rounds of each comparison (default 7)")
    parser.add_argument("--depths", type=_integers, metavar="L,L,...", help="compare the training step at these depths")
    parser.add_argument("--pruning", action="store_true", help="time top-p inference against the share it prunes")
    parser.add_argument("--device", default=None, help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure, print the tables, write the files."""
    import torch

    from limelm.benchmark import CASES, PRESETS, Shape, compare, compare_depths, time_against_pruning
    from limelm.benchmark.cases import DEFAULT_CASES
    from limelm.benchmark.workloads import WORKLOADS
    from limelm.cli.quiet import quieten
    from limelm.environment import environment
    from limelm.report import bench, write_bench

    quieten()
    preset = PRESETS[_known("--preset", [options.preset], PRESETS)[0]]
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Shape)}
    shape = dataclasses.replace(preset, **{name: value for name, value in fields.items() if value is not None})
    _check(shape)
    cases = _known("--cases", options.cases or DEFAULT_CASES, CASES)
    default_tasks = ["forward", "decode"] if options.pruning else list(WORKLOADS)
    tasks = _known("--tasks", options.tasks or default_tasks, WORKLOADS)
    device, dtype = _device(options.device), getattr(torch, options.dtype)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {
        "shape": dataclasses.asdict(shape),
        "dtype": options.dtype,
        "device": str(device),
        "rounds": options.rounds,
        "environment": environment(),
    }
    if options.depths:
        depths = compare_depths(cases, options.depths, shape, options.rounds, device, dtype)
        tables = {"depths": depths}
        print(bench.depths_table(depths))
    elif options.pruning:
        pruning = time_against_pruning(shape, tasks, options.rounds, device, dtype)
        tables = {"pruning": pruning}
        print(bench.pruning_table(pruning))
    else:
        times, memory = compare(cases, tasks, shape, options.rounds, device, dtype)
        tables = {"times": times, "memory": memory}
        print(bench.times_table(times), bench.memory_table(memory), sep="\n\n")
    write_bench(options.out, facts, tables)
    print(f"Results: {options.out}")


def _integers(text: str) -> list[int]:
    return [positive_int(part) for part in text.split(",")]


def _known(option: str, names, allowed) -> list[str]:
    from limelm.errors import UserError

    for name in names:
        if name not in allowed:
            raise UserError(f"{option}: {name!r} is unknown; allowed: {', '.join(allowed)}")
    return list(names)


def _check(shape) -> None:
    from limelm.errors import UserError

    if shape.hidden % shape.heads or (shape.hidden // shape.heads) % 2:
        raise UserError(f"--hidden: {shape.hidden} is not --heads ({shape.heads}) times an even number")
    if shape.heads % shape.grouped:
        raise UserError(f"--grouped: {shape.grouped} does not divide --heads ({shape.heads})")


def _device(name: str | None):
    import torch

    from limelm.errors import UserError

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device: {name} cannot be used ({str(error).splitlines()[0]})") from None
    return device
