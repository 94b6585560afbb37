"""What `limelm bench` measures and writes; that its figures are near the truth is for people to judge."""

import csv
import json

import pytest
import torch

from limelm.benchmark import CASES, Shape, compare, compare_depths, time_against_pruning
from limelm.benchmark.timing import Timing, interleave
from limelm.benchmark.workloads import WORKLOADS
from limelm.cli import main
from limelm.report.bench import ratio_against_depth

CPU = torch.device("cpu")
TINY = Shape(layers=3, hidden=32, intermediate=48, heads=4, grouped=2, vocab=50, batch=1, tokens=8, decode_from=8)
TINY_OPTIONS = [word for name, value in TINY.__dict__.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def test_ratios_are_of_rounds_and_not_of_medians():
    """One slow round of both changes nothing, and a drift of the machine cancels."""
    llama = Timing([1.0, 2.0, 30.0, 4.0, 5.0])
    own = Timing([1.1, 2.2, 33.0, 4.4, 5.5])
    assert own.ratio_to(llama) == pytest.approx((1.1, 1.1, 1.1))
    assert llama.median == 4.0


def test_works_run_turn_about_after_warming_up():
    calls = []
    timings = interleave([lambda: calls.append("a"), lambda: calls.append("b")], 3, CPU)
    assert [len(timing.seconds) for timing in timings] == [3, 3]
    assert len(calls) == 10
    rounds = ["".join(calls[i : i + 2]) for i in range(0, 10, 2)]
    assert set(rounds) == {"ab", "ba"}


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("-triton")])
def test_every_case_runs_every_task(name):
    case = CASES[name]
    model = case.model(TINY, CPU, torch.float32)
    assert case.baseline.model_type == "llama"
    assert model.config.num_key_value_heads == case.baseline.model(TINY, CPU, torch.float32).config.num_key_value_heads
    for work_of, tokens_of in WORKLOADS.values():
        work_of(model, TINY)()
        assert tokens_of(TINY) > 0


def test_decoding_starts_each_round_from_the_same_cache():
    model = CASES["static"].model(TINY, CPU, torch.float32)
    lengths = []
    model.register_forward_pre_hook(
        lambda _, __, inputs: lengths.append(inputs["past_key_values"].get_seq_length()), with_kwargs=True
    )
    work = WORKLOADS["decode"][0](model, TINY)
    work()
    work()
    assert lengths[0] == 0
    assert lengths[1:33] == lengths[33:] == list(range(8, 40))


def test_compare_reports_time_memory_and_bandwidth():
    times, memory = compare(["static", "kv-grouped", "static-naive"], ["train", "decode"], TINY, 2, CPU, torch.float32)
    assert [(row["case"], row["task"]) for row in times] == [
        (case, task) for case in ("static", "kv-grouped", "static-naive") for task in ("train", "decode")
    ]
    assert all(row["ratio_lower_quartile"] <= row["ratio"] <= row["ratio_upper_quartile"] for row in times)
    by_case = {row["case"]: row for row in memory}
    assert list(by_case) == ["llama", "llama-grouped", "static", "kv-grouped", "static-naive"]
    assert (
        by_case["llama"]["peak_training_bytes_ratio"] == by_case["llama-grouped"]["saved_for_backward_bytes_ratio"] == 1
    )
    assert by_case["static"]["saved_for_backward_bytes"] < by_case["static-naive"]["saved_for_backward_bytes"]
    assert by_case["static"]["routing_bytes_per_second"] > 0
    assert by_case["static-naive"]["routing_bytes_per_second"] is None


def test_depths_and_their_figure():
    records = compare_depths(["kv-bounded"], [2, 4], TINY, 2, CPU, torch.float32)
    assert [row["layers"] for row in records] == [2, 4]
    (axes,) = ratio_against_depth(records).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4"]


def test_pruning_grows_with_the_spread_of_the_logits():
    records = time_against_pruning(TINY.with_layers(8), ["forward"], 2, CPU, torch.float32)
    shares = [row["pruned_share"] for row in records]
    assert shares == sorted(shares)
    assert shares[0] < 0.2 and shares[-1] > 0.5


@pytest.mark.parametrize(
    ("options", "tables"),
    [
        (["--cases", "kv", "--tasks", "train"], {"times", "memory"}),
        (["--cases", "kv", "--depths", "2,3"], {"depths"}),
        (["--pruning", "--tasks", "forward"], {"pruning"}),
    ],
)
def test_command_line(tmp_path, capsys, options, tables):
    out = tmp_path / "new" / "bench"
    assert main(["bench", "--out", str(out), "--rounds", "2", *TINY_OPTIONS, *options]) == 0
    assert str(out) in capsys.readouterr().out
    written = json.loads((out / "bench.json").read_text())
    assert written["shape"]["hidden"] == 32 and written["environment"]["torch"] == torch.__version__
    for name in tables:
        with (out / f"{name}.csv").open() as stream:
            assert len(list(csv.DictReader(stream))) == len(written[name])
        assert (out / f"{name}.png").exists() == (name in ("depths", "pruning"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cases", "static,lstm"], "--cases: 'lstm' is unknown; allowed: llama"),
        (["--tasks", "sleep"], "--tasks: 'sleep' is unknown; allowed: train, forward, decode"),
        (["--preset", "huge"], "--preset: 'huge' is unknown; allowed: small, deep, paper"),
        (["--hidden", "36", "--heads", "4"], "--hidden: 36 is not --heads (4) times an even number"),
        (["--grouped", "3"], "--grouped: 3 does not divide --heads (8)"),
        (["--device", "abacus"], "--device: abacus cannot be used"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, message):
    out = tmp_path / "bench"
    assert main(["bench", "--out", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()
