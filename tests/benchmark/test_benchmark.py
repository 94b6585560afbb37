"""What `limelm bench` measures and writes; that its figures are near the truth is for people to judge."""

import csv
import json
import subprocess
import sys

import pytest
import torch

from limelm.benchmark.allocator import can_keep_memory
from limelm.benchmark.cases import CASES
from limelm.benchmark.compare import Conditions, compare, compare_depths
from limelm.benchmark.pruning import time_against_pruning
from limelm.benchmark.timing import Timing, interleave
from limelm.benchmark.workloads import NATIVE_WORKLOADS, WORKLOADS
from limelm.cli import main
from limelm.report.bench import ratio_against_depth, ratio_of_cases
from limelm.report.writer import write_csv
from limelm.routing.ops import backends
from tests.benchmark import TINY

CPU = torch.device("cpu")
TINY_OPTIONS = [
    word
    for name, value in TINY.__dict__.items()
    for word in (f"--{name.replace('_', '-')}", str(value))
    if name not in ("num_hidden_layers", "decode_from")
]


def tiny_cases(*names):
    return [CASES[name].at(TINY) for name in names]


def test_ratios_are_of_rounds_and_not_of_medians():
    """One slow round of both changes nothing, and a drift of the machine cancels."""
    llama = Timing([1.0, 2.0, 30.0, 4.0, 5.0], [2.0, 4.0, 60.0, 8.0, 10.0])
    own = Timing([1.1, 2.2, 33.0, 4.4, 5.5], [2.4, 4.8, 72.0, 9.6, 12.0])
    record = own.beside(llama)
    for key in ("ratio", "ratio_lower_quartile", "ratio_upper_quartile", "ratio_of_minima"):
        assert record[key] == pytest.approx(1.1)
    assert record["milliseconds"] == 4400 and record["baseline_milliseconds"] == 4000
    assert record["cpu_milliseconds"] == 9600 and record["baseline_cpu_milliseconds"] == 8000
    assert record["cpu_ratio"] == pytest.approx(1.2)


def test_the_fastest_rounds_need_not_be_the_same():
    record = Timing([3.0, 2.0, 4.0], [0.5] * 3).beside(Timing([1.0, 4.0, 4.0], [0.0] * 3))
    assert record["ratio_of_minima"] == 2.0 and record["ratio"] == 1.0
    assert record["cpu_ratio"] is None  # rounds too short for that clock


def test_cpu_time_is_that_of_the_process(monkeypatch):
    """Whatever the clock on the wall shows meanwhile."""
    clock = iter(range(100))
    monkeypatch.setattr("time.process_time", lambda: next(clock) ** 2)
    (timing,) = interleave([lambda: None], 3, CPU)
    assert timing.cpu_seconds == [9.0, 13.0, 17.0]


def test_works_run_turn_about_after_warming_up():
    calls = []
    timings = interleave([lambda: calls.append("a"), lambda: calls.append("b")], 3, CPU)
    assert [len(timing.seconds) for timing in timings] == [3, 3]
    assert len(calls) == 10
    rounds = ["".join(calls[i : i + 2]) for i in range(0, 10, 2)]
    assert set(rounds) == {"ab", "ba"}


#: Prints the new pages of a forward: the first one's, and of each round's. A process of its own, since what other tests
#: have left of the heap decides which memory is new.
COUNT_PAGES = """
import resource, torch
from limelm.benchmark.cases import CASES
from limelm.benchmark.shape import SHAPES
from limelm.benchmark.timing import interleave
from limelm.benchmark.workloads import WORKLOADS

cpu, faults = torch.device("cpu"), []
case = CASES["llama"].at(SHAPES["small"].with_layers(2))
forward = WORKLOADS["forward"][0](case.model(cpu, torch.float32), case.inputs)

def work():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    forward()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

work()
interleave([work], 4, cpu)
print(*faults)
"""


@pytest.mark.skipif(not can_keep_memory(), reason="not glibc")
def test_rounds_fetch_few_new_pages():
    """What a forward frees is given back otherwise, and the next one's tensors are new pages, zeroed one by one."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", COUNT_PAGES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, *rounds = map(int, done.stdout.split())
    if before < 1000:
        pytest.skip("pages are huge here, or the allocator is another one")
    assert min(rounds[2:]) < before / 10


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("-triton")])
def test_every_case_runs_every_task(name):
    (case,) = tiny_cases(name)
    model, baseline = case.model(CPU, torch.float32), case.baseline.model(CPU, torch.float32)
    assert baseline.config.model_type == case.baseline.model_type == "llama"
    for size in ("num_key_value_heads", "num_hidden_layers", "hidden_size"):
        assert getattr(model.config, size) == getattr(baseline.config, size)
    for task in NATIVE_WORKLOADS:
        work_of, tokens_of = WORKLOADS[task]
        work_of(model, TINY)()
        assert tokens_of(TINY) > 0


def test_decoding_starts_each_round_from_the_same_cache():
    (case,) = tiny_cases("static")
    model = case.model(CPU, torch.float32)
    lengths = []
    model.register_forward_pre_hook(
        lambda _, __, inputs: lengths.append(inputs["past_key_values"].get_seq_length()), with_kwargs=True
    )
    work = WORKLOADS["decode"][0](model, TINY)
    work()
    work()
    assert lengths[0] == 0
    assert lengths[1:33] == lengths[33:] == list(range(8, 40))


def test_compare_reports_time_memory_and_bandwidth(tmp_path):
    cases, tasks = ["static", "kv-grouped", "static-reference"], ["train", "decode"]
    steps = list(compare(tiny_cases(*cases), tasks, Conditions(2, CPU, torch.float32)))
    assert [[row["case"] for row in step["times"]] for step in steps] == [
        [case for case in cases[:number] for _ in tasks] for number in (1, 2, 3)
    ]
    times, memory = steps[-1]["times"], steps[-1]["memory"]
    assert [row["task"] for row in times] == tasks * 3
    assert all(row["ratio_lower_quartile"] <= row["ratio"] <= row["ratio_upper_quartile"] for row in times)
    head_dim = TINY.hidden_size // TINY.num_attention_heads
    for row in times:  # keys and values of every layer; routers leave none of their own
        heads = TINY.key_value_heads(row["case"] == "kv-grouped")
        cached = (2 * TINY.num_hidden_layers * heads * head_dim * 4, 1) if row["task"] == "decode" else (None, None)
        assert (row.get("cache_bytes"), row.get("cache_ratio")) == cached
    by_case = {row["case"]: row for row in memory}
    assert list(by_case) == ["llama", "static", "llama-grouped", "kv-grouped", "static-reference"]
    assert (
        by_case["llama"]["peak_training_bytes_ratio"] == by_case["llama-grouped"]["saved_for_backward_bytes_ratio"] == 1
    )
    assert by_case["static"]["saved_for_backward_bytes"] < by_case["static-reference"]["saved_for_backward_bytes"]
    assert by_case["static"]["routing_bytes_per_second"] > 0
    assert by_case["static-reference"]["routing_bytes_per_second"] is None
    write_csv(tmp_path / "times.csv", times)
    with (tmp_path / "times.csv").open(newline="") as stream:
        assert [bool(row["cache_bytes"]) for row in csv.DictReader(stream)] == [False, True] * 3
    (axes,) = ratio_of_cases(times, "LLaMA").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == cases
    assert [bar.get_width() for bars in axes.containers if hasattr(bars, "patches") for bar in bars] == [
        row["ratio"] for task in tasks for row in times if row["task"] == task
    ]


def test_depths_and_their_figure():
    *_, tables = compare_depths(tiny_cases("kv-bounded"), [2, 4], Conditions(2, CPU, torch.float32))
    assert [row["layers"] for row in tables["depths"]] == [2, 4]
    (axes,) = ratio_against_depth(tables["depths"], "LLaMA").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4"]


@pytest.mark.parametrize("layers", [2, 8])
def test_pruned_shares_increase(layers, monkeypatch):
    """Whatever the draw of the logits: the figure joins them by a line."""
    monkeypatch.setattr("limelm.benchmark.pruning.SPREADS", (8.0, 0.1, 2.0))
    ((records,),) = (
        tables.values()
        for tables in time_against_pruning(TINY.with_layers(layers), ["forward"], Conditions(2, CPU, torch.float32))
    )
    shares = [row["pruned_share"] for row in records]
    assert shares == sorted(shares) and len(shares) == 3
    assert shares[0] < 0.3 and shares[-1] > 0.3
    assert all(row["ratio_lower_quartile"] <= row["ratio"] <= row["ratio_upper_quartile"] for row in records)
    assert {row["rounds"] for row in records} == {2}


@pytest.mark.parametrize(
    ("options", "layers", "tables"),
    [
        (
            ["--num-hidden-layers", "3", "--decode-from", "8", "--cases", "kv,kv", "--workloads", "train"],
            3,
            {"times", "memory"},
        ),
        (
            ["--num-hidden-layers", "1", "--decode-from", "8", "--cases", "static", "--workloads", "decode"],
            1,
            {"times"},
        ),
        (["--cases", "kv", "--depths", "3,1"], [1, 3], {"depths"}),
        (["--num-hidden-layers", "2", "--pruning", "--workloads", "forward"], 2, {"pruning"}),
    ],
)
def test_command_line(tmp_path, capsys, options, layers, tables):
    out = tmp_path / "new" / "bench"
    assert main(["bench", "--out", str(out), "--rounds", "2", *TINY_OPTIONS, *options]) == 0
    assert str(out) in capsys.readouterr().out
    written = json.loads((out / "bench.json").read_text())
    assert written["shape"]["hidden_size"] == 32 and written["environment"]["torch"] == torch.__version__
    assert written["shape"]["num_hidden_layers"] == layers
    assert written["baseline"] == "LLaMA"
    assert {path.stem for path in out.iterdir()} == {"bench", *tables}
    for name in tables:
        with (out / f"{name}.csv").open() as stream:
            assert len(list(csv.DictReader(stream))) == len(written[name])
        assert (out / f"{name}.png").exists() == (name != "memory")
    if "times" in tables:
        assert len(written["times"]) == 1  # a case that is named twice is measured once


@pytest.mark.parametrize(("before", "kept"), [(0, "nothing was written"), (2, "{out} holds 2 of 3 measurements")])
def test_what_is_finished_outlives_an_interrupt(tmp_path, capsys, monkeypatch, before, kept):
    cases, out = ["none", "static", "kv"], tmp_path / "bench"
    training_step, tokens_of = WORKLOADS["train"]

    def interrupted_step(model, inputs):
        if getattr(model.config, "routing", "llama") == cases[before]:
            raise KeyboardInterrupt
        return training_step(model, inputs)

    monkeypatch.setitem(WORKLOADS, "train", (interrupted_step, tokens_of))
    options = [
        "--decode-from",
        "8",
        "--num-hidden-layers",
        "2",
        "--cases",
        ",".join(cases),
        "--workloads",
        "train",
        "--rounds",
        "1",
    ]
    assert main(["bench", "--out", str(out), *TINY_OPTIONS, *options]) == 130
    assert capsys.readouterr().err == f"limelm: error: interrupted; {kept.format(out=out)}\n"
    written = {path.name for path in out.glob("*")}
    assert written == ({"bench.json", "memory.csv", "times.csv", "times.png", "times.svg"} if before else set())
    if written:
        assert [row["case"] for row in json.loads((out / "bench.json").read_text())["times"]] == cases[:before]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cases", "static,lstm"], "--cases: 'lstm' is not one of none, static"),
        (["--cases", "dense-former"], "did you mean 'dense_former'?"),
        (["--cases", "llama"], "--cases: 'llama' is not one of none, static"),
        (["--cases", "static,static-triton"], "--cases: 'static-triton': routing_backend='triton' cannot run"),
        (["--workloads", "sleep"], "--workloads: 'sleep' is not one of train, forward, decode"),
        (["--workloads", "train-routers"], "--workloads: 'train-routers' is not one of train, forward, decode"),
        (["--pruning", "--workloads", "train"], "--workloads: 'train' is not one of forward, decode"),
        (["--shape", "huge"], "--shape: 'huge' is not one of small, deep, paper"),
        (["--pruning", "--num-hidden-layers", "1"], "--num-hidden-layers: 1 must be at least 2 with --pruning"),
        (["--pruning", "--depths", "2,4"], "--pruning: not with --depths"),
        (["--pruning", "--cases", "kv"], "--cases: not with --pruning"),
        (["--depths", "2", "--workloads", "decode"], "--workloads: not with --depths"),
        (["--depths", "2", "--num-hidden-layers", "2"], "--num-hidden-layers: not with --depths"),
        (["--depths", "2", "--decode-from", "2"], "--decode-from: not with --depths"),
        (
            ["--hidden-size", "36", "--num-attention-heads", "4"],
            "--hidden-size: 36 is not an even number times --num-attention-heads (4)",
        ),
        (["--num-key-value-heads", "3"], "--num-key-value-heads: 3 does not divide --num-attention-heads (8)"),
        (["--device", "abacus"], "--device: 'abacus' is not cpu, cuda or cuda:N"),
        (["--device", "meta"], "--device: 'meta' is not cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "--device: cuda:99 cannot be used"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(backends, "why_not_triton", backends.why_not_triton.__wrapped__)
    device = [] if "--device" in options else ["--device", "cpu"]
    out = tmp_path / "bench"
    assert main(["bench", "--out", str(out), *device, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("thesis", "already holds other files (thesis.tex); name a new folder"),
        ("thesis/thesis.tex", "is not a folder"),
        ("thesis/thesis.tex/bench", "is not a folder"),
    ],
)
def test_an_out_that_cannot_be_used_is_one_line(tmp_path, capsys, name, message):
    """Results of several runs are not mixed."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    out = tmp_path / name
    assert main(["bench", "--out", str(out), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == f"limelm: error: --out: {out} {message}\n"
