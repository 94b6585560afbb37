"""Shapes that no device has room for are refused at once, and none that runs is."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limelm.benchmark import memory as bench_memory
from limelm.benchmark.attached import attached_cases
from limelm.benchmark.cases import CASES, NativeCase
from limelm.benchmark.memory import check_memory, least_bytes
from limelm.benchmark.shape import SHAPES, Inputs
from limelm.benchmark.workloads import NATIVE_WORKLOADS, WORKLOADS
from limelm.cli import main
from limelm.environment import available_memory
from limelm.errors import UserError
from limelm.planning.peak_memory import PeakMemory
from tests import benchmark

CPU = torch.device("cpu")
TINY = replace(benchmark.TINY, batch_size=2)


@pytest.fixture
def no_model(monkeypatch):
    monkeypatch.setattr(NativeCase, "model", lambda case, *_: pytest.fail(f"{case.name} was made"))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("shape", [TINY, *SHAPES.values()])
def test_parameters_are_llama_s(shape, grouped):
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape.config_fields(grouped)))
    assert shape.llama_parameters(grouped) == model.num_parameters()


@pytest.mark.parametrize("task", NATIVE_WORKLOADS)
@pytest.mark.parametrize("name", [name for name in CASES if name != "top-p" and not name.endswith("-triton")])
def test_the_estimate_is_below_what_a_case_takes(name, task):
    """Counted tensor by tensor, in the second round, when Adam's moments are there (sparse tensors cannot be)."""
    case = CASES[name].at(TINY)
    model = case.model(CPU, torch.float32)
    with PeakMemory() as memory:
        memory.add(*model.parameters(), *model.buffers())
        work = WORKLOADS[task][0](model, TINY)
        work()
        work()
    assert least_bytes(case, task, torch.float32, models=1) <= memory.peak_bytes


TOO_LARGE = {
    "hidden-size": 2**30,
    "intermediate-size": 2**31 - 1,
    "num-hidden-layers": 2**31 - 1,
    "vocab-size": 2**31 - 1,
    "batch-size": 2**31 - 1,
    "sequence-length": 2**31 - 1,
    "decode-from": 2**31 - 1,
    "depths": 2**31 - 1,
}


@pytest.mark.parametrize("option", TOO_LARGE)
@pytest.mark.parametrize("more", [[], ["--workloads", "decode"], ["--pruning"], ["--shape", "paper"]])
def test_absurd_sizes_are_refused_before_a_model_is_made(option, more, tmp_path, capsys, no_model):
    decodes = not more or "decode" in more
    if option == "depths" and more != ["--shape", "paper"]:
        more = []
    elif option in ("batch-size", "sequence-length") and "decode" in more:
        more = ["--workloads", "forward"]
    elif option == "decode-from" and not decodes:
        more = [*more, "--workloads", "decode"]
    out = tmp_path / "out"
    assert main(["bench", f"--{option}", str(TOO_LARGE[option]), *more, "--device", "cpu", "--out", str(out)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--{option}" in line and "GiB" in line and "bug" not in line
    assert not out.exists()


def test_what_fits_is_not_refused_and_what_is_a_byte_too_large_is(monkeypatch):
    cases = [CASES["kv"].at(TINY)]
    needed = least_bytes(cases[0], "train", torch.float32)
    monkeypatch.setattr(bench_memory, "available_memory", lambda device: needed)
    check_memory(cases, NATIVE_WORKLOADS, CPU, torch.float32, ["--hidden-size"])
    monkeypatch.setattr(bench_memory, "available_memory", lambda device: needed - 1)
    check_memory(cases, ["forward", "decode"], CPU, torch.float32, ["--hidden-size"])
    with pytest.raises(
        UserError, match=r"^--hidden-size, --vocab-size: too large together: kv and its baseline need at least"
    ):
        check_memory(cases, NATIVE_WORKLOADS, CPU, torch.float32, ["--hidden-size", "--vocab-size"])


def test_a_pretrained_model_that_is_too_large_to_be_copied(monkeypatch):
    base = LlamaForCausalLM(LlamaConfig(**TINY.config_fields(False)))
    cases = attached_cases(base, ["kv"], ["train"], Inputs(1, 8, 8))
    bytes_ = 4 * base.num_parameters()
    needed = {task: least_bytes(cases[0], task, torch.float32) for task in WORKLOADS}
    assert needed["train"] == 7 * bytes_ and needed["train-routers"] == 5 * bytes_ and needed["forward"] >= 2 * bytes_
    monkeypatch.setattr(bench_memory, "available_memory", lambda device: 7 * bytes_ - 1)
    with pytest.raises(UserError, match="--batch-size: too large together: kv and its baseline"):
        check_memory(cases, ["train"], CPU, torch.float32, ["--batch-size"])


def test_memory_of_the_machine():
    assert 2**20 < available_memory(CPU) < 2**50


@pytest.mark.parametrize("left", ["bench.json", ".bench.json.partial"])
def test_a_bench_that_was_killed_can_be_started_again(left, tmp_path, capsys):
    """What an earlier one left, whole or a part, is replaced: no table of it stays beside the new ones."""
    out = tmp_path / "out"
    out.mkdir()
    (out / left).write_text("{")
    for name in ("pruning.csv", "depths.csv", "depths.svg", "depths.png"):
        (out / name).write_text("of another measurement")
    options = [word for name, value in vars(TINY).items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["bench", "--cases", "kv", "--workloads", "forward", "--rounds", "1", "--device", "cpu", *options]
    assert main([*command, "--out", str(out)]) == 0
    assert [row["case"] for row in json.loads((out / "bench.json").read_text())["times"]] == ["kv"]
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "times.csv", "times.png", "times.svg"]
    (out / "bench.json").unlink()
    assert main([*command, "--out", str(out)]) == 2
    assert "already holds other files (times.csv)" in capsys.readouterr().err
