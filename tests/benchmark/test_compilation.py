"""`limelm bench --compile`: both sides are compiled, before the rounds; memory is counted where no hook sees."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import StaticCache

from limelm.benchmark import compare as comparing
from limelm.benchmark import workloads
from limelm.benchmark.attached import attached_cases
from limelm.benchmark.cases import CASES
from limelm.benchmark.compare import Conditions, compare_depths, memory_of, time_case
from limelm.benchmark.compilation import allocated_in_training, compiled_work
from limelm.benchmark.timing import interleave
from limelm.benchmark.workloads import COMPILE, WORKLOADS
from limelm.cli import main
from limelm.planning.peak_memory import peak_training_memory, saved_for_backward
from tests import benchmark
from tests.benchmark.test_benchmark import TINY_OPTIONS
from tests.families import family_model

CPU = torch.device("cpu")
COMPILED = Conditions(2, CPU, torch.float32, is_compiled=True)
TINY = benchmark.TINY.with_layers(2)
TOKEN_BYTES = 8 * TINY.batch_size * TINY.sequence_length


@pytest.fixture(autouse=True)
def aot_eager(monkeypatch):
    """The same graphs, without the minutes that code for them takes."""
    monkeypatch.setitem(COMPILE, "backend", "aot_eager")
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("task", WORKLOADS)
def test_both_sides_are_one_graph_and_rounds_compile_nothing(task, monkeypatch):
    """Attached routers, too, which to the compiler are the same code with hooks; for more cases than it keeps apart."""

    def timed(works, rounds, device):
        with torch.compiler.set_stance("fail_on_recompile"):
            return interleave(works, rounds, device)

    monkeypatch.setattr(comparing, "interleave", timed)
    cases = [CASES[name].at(TINY) for name in ("static", "hc") if task != "train-routers"]
    cases += attached_cases(family_model("llama"), ["kv"], [task], TINY)
    with torch._dynamo.config.patch(recompile_limit=2):
        records = [time_case(case, task, COMPILED) for case in cases]
    assert {(row["graphs"], row["baseline_graphs"]) for row in records} == {(1, 1)}


def test_each_depth_is_compiled_anew():
    with torch._dynamo.config.patch(recompile_limit=2):
        *_, tables = compare_depths([CASES["kv"].at(TINY)], [1, 2, 3], COMPILED)
    assert [(row["layers"], row["graphs"], row["baseline_graphs"]) for row in tables["depths"]] == [
        (layers, 1, 1) for layers in (1, 2, 3)
    ]


def test_code_in_pieces_is_counted():
    class Broken(torch.nn.Linear):
        def forward(self, X):
            torch._dynamo.graph_break()
            return super().forward(X)

    model = CASES["none"].at(TINY).model(CPU, torch.float32)
    model.lm_head = Broken(32, 50, bias=False)
    assert compiled_work("forward", model, TINY)[1] > 1


@pytest.mark.parametrize("name", ["llama", "static", "kv", "hc"])
@torch.no_grad()
def test_compiled_decoding_starts_each_round_from_the_same_cache(name, monkeypatch):
    caches, model = [], CASES[name].at(TINY).model(CPU, torch.float32)
    monkeypatch.setattr(workloads, "StaticCache", lambda **sizes: caches.append(StaticCache(**sizes)) or caches[0])
    torch.manual_seed(1)
    work, _ = compiled_work("decode", model, TINY)
    torch.manual_seed(1)
    prompt = torch.randint(50, (1, 8))
    tokens = torch.cat([prompt, prompt[:, :1].expand(1, 32)], 1)
    expected = model.forward(tokens, use_cache=True).past_key_values
    for _ in range(2):
        for own, whole in zip(caches[0].layers, expected.layers, strict=True):
            assert own.cumulative_length == 40
            torch.testing.assert_close(own.keys, whole.keys, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(own.values, whole.values, atol=1e-5, rtol=1e-4)
        work()


@pytest.mark.parametrize("name", ["llama", "static", "static-reference", "dynamic", "kv", "hc"])
def test_memory_of_calls_is_that_of_tensors_where_nothing_is_compiled(name, capfd):
    """Counted from the allocator's calls, and independently tensor by tensor."""
    model = CASES[name].at(TINY).model(CPU, torch.float32).train()
    saved = saved_for_backward(model, TINY.batch_size, TINY.sequence_length)
    peak = peak_training_memory(model, TINY.batch_size, TINY.sequence_length)
    counted = allocated_in_training(model, TINY)
    assert counted["peak_training_bytes"] == pytest.approx(peak, rel=0.01)  # scalars are tensors to the allocator
    # The tokens were there before, as the rotary frequencies were, and the loss was not.
    assert saved - 2 * TOKEN_BYTES < counted["saved_for_backward_bytes"] <= saved
    assert "profiler" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["llama", "static", "kv"])
def test_saved_bytes_are_what_the_graph_holds(name):
    model = CASES[name].at(TINY).model(CPU, torch.float32).train()
    model.compile(**COMPILE)
    counted = allocated_in_training(model, TINY)["saved_for_backward_bytes"]
    tokens = torch.zeros(TINY.batch_size, TINY.sequence_length, dtype=torch.long)
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    there = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers(), tokens)}
    nodes, saved = [loss.grad_fn], {}
    for node in nodes:
        nodes += [each for each, _ in node.next_functions if each is not None]
        for tensor in (*getattr(node, "saved_tensors", ()), *getattr(node, "_tensors_no_vc_check", ())):
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    assert counted == sum(size for key, size in saved.items() if key not in there) + loss.nbytes


def test_the_record_of_memory_is_of_compiled_code():
    """Which keeps less, as autograd's own operators keep their inputs where a graph can make them again."""
    eager, compiled = (
        memory_of(CASES["llama"].at(TINY), "train", None, conditions)
        for conditions in (replace(COMPILED, is_compiled=False), COMPILED)
    )
    assert compiled["saved_for_backward_bytes"] < eager["saved_for_backward_bytes"]
    assert compiled.keys() == eager.keys() - {"routing_bytes_per_second", "copy_bytes_per_second"}


def test_command_line(tmp_path, capsys):
    out = tmp_path / "bench"
    options = ["--compile", "--num-hidden-layers", "2", "--decode-from", "8", "--cases", "kv", "--rounds", "1"]
    assert main(["bench", "--out", str(out), *TINY_OPTIONS, *options]) == 0
    assert capsys.readouterr().out.startswith("Ratios are to compiled LLaMA.\n")
    written = json.loads((out / "bench.json").read_text())
    assert written["compiled"] is True and written["baseline"] == "compiled LLaMA"
    assert [(row["task"], row["graphs"]) for row in written["times"]] == [("train", 1), ("forward", 1), ("decode", 1)]
    assert [row["case"] for row in written["memory"]] == ["llama", "kv"]
    assert "ratio to compiled LLaMA" in (out / "times.svg").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pruning"], "--compile: not with --pruning, whose sparse products are not compiled"),
        (["--cases", "kv"], "--compile: torch.compile does not work on cpu here: no C++ compiler"),
    ],
)
def test_what_cannot_be_compiled_is_refused_at_once(options, message, tmp_path, capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\n(and more of this)")

    monkeypatch.setattr(torch, "compile", broken)
    out = tmp_path / "bench"
    assert main(["bench", "--out", str(out), "--compile", "--device", "cpu", *options]) == 2
    assert capsys.readouterr().err == f"limelm: error: {message}\n"
    assert not out.exists()
