"""`limelm bench`: speed and memory beside LLaMA, or of attached routers beside the model that they are attached to."""

import argparse
import dataclasses
import difflib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limelm.cli.options import add_shared
from limelm.cli.output import Output, note
from limelm.cli.resources import check_out, find_device
from limelm.cli.types import listed, positive_int
from limelm.errors import Stopped, UserError
from limelm.records import Records

HELP = "time models beside LLaMA, or attached routers beside the model without them"
NEEDS = "lab"
SAVES_MEMORY = "--batch-size, --sequence-length, --num-hidden-layers, --hidden-size or --vocab-size"
KEYS = ("out", "baseline", "times", "memory", "depths", "pruning")
DESCRIPTION = """\
Time LIMe, Hyper-Connections and the reference path beside LLaMA in one run. The rounds are interleaved, after warming
up. The result is the median of the rounds' ratios; the ratios of the fastest rounds and of CPU time are given beside
it. The command writes OUT/bench.json, CSV tables and figures again after each case, and replaces those of an earlier
bench.

Without --depths and --pruning it compares training step, forward and decoding at one shape. For the training step it
also measures peak memory, the bytes saved for the backward, and the bandwidth of the routing operation beside that of a
copy.

With --from it compares a pretrained model with a copy that has routers: in training steps of all weights ("train"), and
of the routers alone ("train-routers", beside a step of all weights of the model without routers).

With --peers it also measures those packages of the extra `peers` that are installed, each beside its own plain model.
They are x-transformers' decoder with integrate_layers=True, and the package hyper-connections around LLaMA's layers.

With --compile all models are compiled with torch.compile, each separately and before the timed rounds. The optimizer is
not compiled, and decoding uses a StaticCache. "graphs" says into how many pieces a model was compiled.
"""

EPILOG = """\
cases:
  none, top-p, hc, static, dynamic, kv, each compared with LLaMA; for the last three also
  NAME-grouped: few key/value heads, compared with a LLaMA that has as few
  NAME-reference: routing_backend="reference"
  NAME-bounded: routing over the first two sources and the layer's own
  NAME-triton: routing_backend="triton"
  value_residual, depth_attention, mhc, and other models by their model_type (docs/models.md), where they are named;
  also value_residual-grouped, depth_attention-grouped and depth_attention-bounded

cases with --from:
  kv, static, dynamic; for these also
  NAME-separate: share_kv=False, a router for keys and one for values
  NAME-bounded: as above
  scale: no routing, each head's keys and values scaled

examples:
  limelm bench --out bench
  limelm bench --out bench --cases static,kv --workloads train --rounds 15
  limelm bench --out depths --depths 8,16,32,64,128 --cases static,kv,static-bounded --batch-size 1
  limelm bench --out peers --peers
  limelm bench --out compiled --compile --cases static,dynamic,kv --depths 8,16,32
  limelm bench --out pruning --pruning --num-hidden-layers 128 --batch-size 1
  limelm bench --out gpu --shape paper --device cuda --dtype bfloat16
  limelm bench --out attached --from HuggingFaceTB/SmolLM2-135M --sequence-length 512
"""

DTYPES = ("float32", "bfloat16", "float16")
#: Sizes of the models: fields of a configuration, and of a `Shape`.
SIZES = {
    "--num-hidden-layers": "decoder layers",
    "--hidden-size": "size of the residual stream",
    "--intermediate-size": "size of the MLP",
    "--num-attention-heads": "query heads, and also key/value heads where these are not grouped",
    "--num-key-value-heads": "key/value heads of NAME-grouped",
    "--vocab-size": "entries of the vocabulary",
}
#: Sizes of the batch, and what they are with a pretrained model.
INPUTS = {
    "--sequence-length": ("tokens per sequence", 256),
    "--batch-size": ("sequences at once", 1),
    "--decode-from": ("tokens in the cache when decoding is timed", 128),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "--out", ", new or of an earlier bench")
    add_shared(parser, "--from", "; it is compared with a copy that has routers")
    parser.add_argument("--shape", metavar="NAME", help="sizes to start from: small (default), deep or paper")
    parser.add_argument(
        "--cases",
        type=listed,
        metavar="NAME,...",
        help="some of the cases below (default: all but NAME-bounded, NAME-triton and later papers' models; "
        "--from: kv, static, dynamic; --peers: these and hc)",
    )
    parser.add_argument(
        "--workloads",
        type=listed,
        metavar="NAME,...",
        help="train, forward, decode, with --from also train-routers (default: all that are possible)",
    )
    parser.add_argument("--depths", type=_integers, metavar="N,...", help="compare the training step at these depths")
    parser.add_argument("--pruning", action="store_true", help="time top-p inference against the share it prunes")
    parser.add_argument(
        "--peers", action="store_true", help="measure other packages' models beside ours (extra: peers)"
    )
    parser.add_argument("--compile", action="store_true", help="compile all models with torch.compile")
    parser.add_argument("--rounds", type=positive_int, default=7, metavar="N", help="timed rounds of a comparison (7)")
    for option, meaning in SIZES.items():
        parser.add_argument(option, type=positive_int, metavar="N", help=f"{meaning} (default: the shape's)")
    for option, (meaning, default) in INPUTS.items():
        help = f"{meaning} (default: the shape's; --from: {default})"
        parser.add_argument(option, type=positive_int, metavar="N", help=help)
    add_shared(parser, "--device")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, metavar="NAME", help="float32 (default), bfloat16 or float16"
    )


#: An option, one that it leaves no use for, and why.
NOT_TOGETHER = [
    *(("--from", other, "whose model has its own") for other in ("--shape", *SIZES, "--depths")),
    ("--from", "--pruning", "which is another measurement"),
    ("--from", "--peers", "whose routers have no peers"),
    ("--depths", "--num-hidden-layers", "which names them itself"),
    ("--depths", "--workloads", "which times the training step"),
    ("--depths", "--decode-from", "which times the training step"),
    ("--depths", "--pruning", "which is another measurement"),
    ("--pruning", "--cases", "which times top-p"),
    ("--pruning", "--peers", "which times top-p"),
    ("--peers", "--decode-from", "which times no decoding"),
    ("--pruning", "--compile", "whose sparse products are not compiled"),
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


def run(options: argparse.Namespace) -> Output:
    """Measure, and write the files."""
    import torch

    from limelm.benchmark.allocator import can_keep_memory
    from limelm.benchmark.compare import Conditions
    from limelm.benchmark.compilation import check_compiler
    from limelm.environment import environment
    from limelm.report.bench import BENCH, tables_as_text, write_bench

    for option, other, reason in NOT_TOGETHER:
        if _value(options, option) and _value(options, other):
            raise UserError(f"{other}: not with {option}, {reason}")
    device = find_device(options.device)
    conditions = Conditions(options.rounds, device, getattr(torch, options.dtype), options.compile)
    check_out(options.out, marker=BENCH)
    measurement = (_attached if options.base else _native)(options, conditions)
    if options.compile:
        check_compiler(device)
        measurement.baseline = f"compiled {measurement.baseline}"
    facts = {
        "baseline": measurement.baseline,
        **measurement.facts,
        "compiled": options.compile,
        "keeps_freed_memory": device.type == "cpu" and can_keep_memory(),
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
    empty: dict[str, Records] = {name: [] for name in KEYS[2:]}
    return Output(
        f"{tables_as_text(tables, measurement.baseline)}\nResults: {options.out}",
        {"out": options.out, "baseline": measurement.baseline, **empty, **tables},
    )


def _native(options: argparse.Namespace, conditions) -> Measurement:
    """The measurement of models built for the purpose, beside LLaMA, or each beside its own baseline."""
    from limelm.benchmark.cases import CASES
    from limelm.benchmark.compare import compare, compare_depths
    from limelm.benchmark.memory import check_memory
    from limelm.benchmark.pruning import SPREADS, time_against_pruning
    from limelm.benchmark.shape import SHAPES

    device, dtype = conditions.device, conditions.dtype
    shape = _given(SHAPES[_known("--shape", [options.shape or "small"], SHAPES)[0]], options)
    _check_shape(shape)
    if options.pruning and shape.num_hidden_layers < 2:
        raise UserError(f"--num-hidden-layers: {shape.num_hidden_layers} must be at least 2 with --pruning")
    cases, tasks = _chosen(options)
    cases = [case.at(shape) for case in cases]
    _check_backends(cases, device)
    sizes = [option for option in (*SIZES, *INPUTS) if option != "--num-key-value-heads"]
    if options.depths:
        deepest = [case.at(shape.with_layers(max(options.depths))) for case in cases]
        check_memory(deepest, ["train"], device, dtype, ["--depths", *sizes[1:]])
        tables = compare_depths(cases, options.depths, conditions)
        total = len(cases) * len(options.depths)
    elif options.pruning:
        check_memory([CASES["top-p"].at(shape)], tasks, device, dtype, sizes, models=1 + len(SPREADS))
        tables, total = time_against_pruning(shape, tasks, conditions), len(tasks)
    else:
        check_memory(cases, tasks, device, dtype, sizes)
        tables, total = compare(cases, tasks, conditions), len(cases)
    facts = {"shape": dataclasses.asdict(shape) | ({"num_hidden_layers": options.depths} if options.depths else {})}
    return Measurement("its own baseline" if options.peers else "LLaMA", facts, tables, total)


def _chosen(options: argparse.Namespace) -> tuple[list, list[str]]:
    """The cases and workloads of models built for the purpose, those of other packages among them."""
    from limelm.benchmark.cases import CASES, COMPARED_CASES, DEFAULT_CASES
    from limelm.benchmark.peers import OWN_CASES, PEER_WORKLOADS, PEERS, installed_peers
    from limelm.benchmark.workloads import NATIVE_WORKLOADS

    default = OWN_CASES if options.peers else DEFAULT_CASES
    possible_tasks = ["forward", "decode"] if options.pruning else PEER_WORKLOADS if options.peers else NATIVE_WORKLOADS
    cases = [CASES[name] for name in _known("--cases", options.cases or default, COMPARED_CASES)]
    tasks = _known("--workloads", options.workloads or possible_tasks, possible_tasks)
    if options.peers:
        installed, left_out = installed_peers()
        cases = [*(PEERS[name] for name in installed), *cases]
        if left_out:
            note(left_out)
    return cases, tasks


def _attached(options: argparse.Namespace, conditions) -> Measurement:
    """The measurement of routers attached to a model, beside that model."""
    from limelm.adapters import attachment_of
    from limelm.benchmark.attached import ATTACHED_CASES, DEFAULT_ATTACHED_CASES, attached_cases
    from limelm.benchmark.compare import compare
    from limelm.benchmark.memory import check_memory
    from limelm.benchmark.shape import Inputs
    from limelm.benchmark.workloads import WORKLOADS
    from limelm.loading import load_model
    from limelm.provenance import shown_path

    inputs = _given(Inputs(batch_size=1), options)
    names = _known("--cases", options.cases or DEFAULT_ATTACHED_CASES, ATTACHED_CASES)
    tasks = _known("--workloads", options.workloads or WORKLOADS, WORKLOADS)
    base = load_model(options.base)
    if attachment_of(base) is not None:
        raise UserError(f"--from: {options.base} is an adapter; name the model that it is for")
    cases = attached_cases(base.to(conditions.dtype), names, tasks, inputs)
    check_memory(cases, tasks, conditions.device, conditions.dtype, [*INPUTS, "--workloads"])
    facts = {
        "base": {
            "name": shown_path(options.base),
            "architecture": type(base).__name__,
            "parameters": base.num_parameters(),
        },
        "inputs": dataclasses.asdict(inputs),
    }
    tables = compare(cases, tasks, conditions)
    return Measurement(Path(options.base).resolve().name, facts, tables, len(cases))


def _value(options: argparse.Namespace, option: str) -> Any:
    return options.base if option == "--from" else getattr(options, option[2:].replace("-", "_"))


def _given(sizes, options: argparse.Namespace):
    """Sizes with those of the command line in place of the defaults."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(sizes)}
    return dataclasses.replace(sizes, **{name: value for name, value in fields.items() if value is not None})


def _integers(text: str) -> list[int]:
    return sorted({positive_int(part) for part in text.split(",")})


def _known(option: str, names, allowed) -> list[str]:
    for name in names:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.75)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{option}: {name!r} is not one of {', '.join(allowed)}{hint}")
    return list(dict.fromkeys(names))


def _check_shape(shape) -> None:
    heads = shape.num_attention_heads
    if shape.hidden_size % heads or (shape.hidden_size // heads) % 2:
        raise UserError(
            f"--hidden-size: {shape.hidden_size} is not an even number times --num-attention-heads ({heads})"
        )
    if heads % shape.num_key_value_heads:
        groups = shape.num_key_value_heads
        raise UserError(f"--num-key-value-heads: {groups} does not divide --num-attention-heads ({heads})")


def _check_backends(cases, device) -> None:
    from limelm.routing import resolve_backend

    for case in cases:
        try:
            resolve_backend(case.options.get("routing_backend", "auto"), device)
        except UserError as error:
            raise UserError(f"--cases: {case.name!r}: {error}") from None
