"""Routers beside the model that they are attached to: what `limelm bench --from` measures and writes."""

import csv
import json

import pytest
import torch

import limelm
from limelm.benchmark.attached import ATTACHED_CASES, DEFAULT_ATTACHED_CASES, attached_cases
from limelm.benchmark.compare import Conditions, compare
from limelm.benchmark.shape import Inputs
from limelm.benchmark.workloads import TRAINS, WORKLOADS, begin_training
from limelm.cli import main
from limelm.errors import UserError
from tests.families import family_model, router_parameters, tokens

CPU = torch.device("cpu")
TINY = Inputs(batch_size=2, sequence_length=16, decode_from=8)
TINY_OPTIONS = [
    "--batch-size",
    "2",
    "--sequence-length",
    "16",
    "--decode-from",
    "8",
    "--rounds",
    "2",
    "--device",
    "cpu",
]


def one_case(base, name, tasks=(), inputs=TINY):
    (case,) = attached_cases(base, [name], tasks, inputs)
    return case


@pytest.fixture
def base():
    return family_model("llama")


@pytest.fixture
def checkpoint(base, tmp_path):
    base.save_pretrained(tmp_path / "my-llama")
    return tmp_path / "my-llama"


@pytest.mark.parametrize("name", ATTACHED_CASES)
def test_a_case_is_the_base_with_the_routers_of_its_name(name, base):
    model = one_case(base, name).model(CPU, torch.float32)
    config = limelm.adapters.attachment_of(model).config
    assert config.routing == name.removesuffix("-separate").removesuffix("-bounded")
    assert config.share_kv == (not name.endswith("-separate"))
    assert (config.routing_sources is not None) == name.endswith("-bounded")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()).logits, base(tokens()).logits, rtol=0, atol=1e-5)
    for work_of, tokens_of in WORKLOADS.values():
        work_of(model, TINY)()
        assert tokens_of(TINY) > 0


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_gates_are_open_so_that_routing_is_measured(name, base):
    model = one_case(base, name).model(CPU, torch.float32)
    gates = [parameter for name, parameter in router_parameters(model).items() if name.endswith("gate")]
    assert gates and all((gate != 0).all() for gate in gates)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_baseline_is_the_base_alone_in_the_same_dtype(dtype, base):
    case = one_case(base, "kv")
    model, alone = case.model(CPU, dtype), case.baseline.model(CPU, dtype)
    assert not router_parameters(alone) and router_parameters(model)
    own = dict(model.named_parameters())
    for name, parameter in alone.named_parameters():
        assert parameter.dtype == own[name].dtype == dtype
        assert torch.equal(parameter, own[name])
    assert {parameter.dtype for parameter in router_parameters(model).values()} == {torch.float32}


def test_measuring_leaves_the_base_as_it_was(base):
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    list(compare([one_case(base, "kv")], ["train"], Conditions(1, CPU, torch.float32)))
    after = dict(base.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in after.values())


@pytest.mark.parametrize("task", TRAINS)
def test_a_step_changes_what_its_task_trains(task, base):
    case = one_case(base, "kv")
    for model in (case.model(CPU, torch.float32), case.baseline.model(CPU, torch.float32)):
        routers = router_parameters(model).keys()
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        WORKLOADS[task][0](model, TINY)()
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert changed == (routers if routers and task == "train-routers" else before.keys())


def test_a_full_step_follows_one_of_the_routers(base):
    model = one_case(base, "static").model(CPU, torch.float32)
    begin_training(model, "train-routers")
    begin_training(model, "train")
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_compare_reports_times_and_memory_of_both_trainings(base):
    cases, tasks = attached_cases(base, ["kv", "scale"], list(WORKLOADS), TINY), list(WORKLOADS)
    first, last = compare(cases, tasks, Conditions(2, CPU, torch.float32))
    assert [(row["case"], row["task"]) for row in last["times"]] == [
        (name, task) for name in ("kv", "scale") for task in tasks
    ]
    assert first["times"] == last["times"][: len(tasks)]
    memory = {(row["case"], row["task"]): row for row in last["memory"]}
    assert list(memory) == [("base", "train"), *((name, task) for name in ("kv", "scale") for task in TRAINS)]
    full, routers, alone = memory["kv", "train"], memory["kv", "train-routers"], memory["base", "train"]
    own = sum(parameter.numel() for parameter in base.parameters())
    assert alone["trained_parameters"] == own
    assert full["trained_parameters"] == own + routers["trained_parameters"]
    assert routers["trained_parameters"] == 2 * 2 * (2 + 3)  # G x n G in two layers that route
    for key in ("peak_training_bytes", "saved_for_backward_bytes"):
        assert routers[key] < alone[key] < full[key]
        assert alone[f"{key}_ratio"] == 1
        assert routers[f"{key}_ratio"] == routers[key] / alone[key]
    # Weights, gradients and Adam's two moments of all weights; of the routers alone the last three are next to nothing.
    weights = 4 * own
    assert alone["peak_training_bytes"] > 4 * weights
    assert routers["peak_training_bytes"] < alone["peak_training_bytes"] - 2 * weights


def test_without_a_training_task_no_memory_is_measured(base):
    """A model whose training step does not fit can be timed at the rest."""
    (tables,) = compare([one_case(base, "kv")], ["forward"], Conditions(1, CPU, torch.float32))
    assert tables.keys() == {"times"}


@pytest.mark.parametrize("family", ["mistral", "gpt2"])
def test_decoding_rounds_are_alike_where_a_window_is_full(family):
    """Mistral's window here is 4 tokens, and a full one cannot be cropped."""
    model = one_case(family_model(family), "kv").model(CPU, torch.float32)
    seen = []
    model.register_forward_hook(lambda _, __, output: seen.append(output.logits))
    work = WORKLOADS["decode"][0](model, TINY)
    del seen[:]
    work()
    work()
    assert len(seen) == 64
    for one, other in zip(seen[:32], seen[32:], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(seen[0], seen[1])


def test_more_tokens_than_the_model_reads_are_refused_where_a_task_gives_them(base):
    """64 positions."""
    long = Inputs(batch_size=1, sequence_length=65, decode_from=33)
    assert attached_cases(base, ["kv"], [], long)
    for task, given in (("train-routers", 65), ("forward", 65), ("decode", 65)):
        with pytest.raises(UserError, match=f"'{task}': {given} tokens are more than the 64"):
            attached_cases(base, ["kv"], [task], long)
    assert attached_cases(base, ["kv"], list(WORKLOADS), Inputs(batch_size=1, sequence_length=64, decode_from=32))


def test_command_line(checkpoint, tmp_path, capsys):
    out = tmp_path / "bench"
    arguments = ["bench", "--from", str(checkpoint), "--workloads", "train-routers,forward", "--out", str(out)]
    assert main([*arguments, *TINY_OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Ratios are to my-llama.\n") and f"Results: {out}\n" in printed
    assert "GB/s" not in printed
    written = json.loads((out / "bench.json").read_text())
    assert written["baseline"] == "my-llama"
    assert written["base"] == {
        "name": checkpoint.name,  # not the path on this machine
        "architecture": "LlamaForCausalLM",
        "parameters": family_model("llama").num_parameters(),
    }
    assert written["inputs"] == {"batch_size": 2, "sequence_length": 16, "decode_from": 8}
    assert list(dict.fromkeys(row["case"] for row in written["times"])) == DEFAULT_ATTACHED_CASES
    for name in ("times", "memory"):
        with (out / f"{name}.csv").open() as stream:
            assert len(list(csv.DictReader(stream))) == len(written[name])
    assert "ratio to my-llama" in (out / "times.svg").read_text()


def test_a_checkpoint_is_measured_in_the_dtype_that_is_asked_for(checkpoint, base, tmp_path, monkeypatch):
    base.to(torch.bfloat16).save_pretrained(checkpoint)
    dtypes, (forward, tokens_of) = [], WORKLOADS["forward"]

    def noted(model, inputs):
        dtypes.append(model.get_input_embeddings().weight.dtype)
        return forward(model, inputs)

    monkeypatch.setitem(WORKLOADS, "forward", (noted, tokens_of))
    arguments = ["bench", "--from", str(checkpoint), "--cases", "kv", "--workloads", "forward", *TINY_OPTIONS]
    assert main([*arguments, "--out", str(tmp_path / "float32")]) == 0
    assert main([*arguments, "--dtype", "bfloat16", "--out", str(tmp_path / "bfloat16")]) == 0
    assert dtypes == [torch.float32] * 2 + [torch.bfloat16] * 2


@pytest.mark.parametrize(("before", "kept"), [(0, "nothing was written"), (1, "{out} holds 1 of 2 measurements")])
def test_what_is_finished_outlives_an_interrupt(checkpoint, tmp_path, capsys, monkeypatch, before, kept):
    cases, out = ["kv", "scale"], tmp_path / "bench"
    forward, tokens_of = WORKLOADS["forward"]

    def interrupted(model, inputs):
        attachment = limelm.adapters.attachment_of(model)
        if attachment is not None and attachment.config.routing == cases[before]:
            raise KeyboardInterrupt
        return forward(model, inputs)

    monkeypatch.setitem(WORKLOADS, "forward", (interrupted, tokens_of))
    arguments = [
        "bench",
        "--from",
        str(checkpoint),
        "--cases",
        ",".join(cases),
        "--workloads",
        "forward",
        *TINY_OPTIONS,
    ]
    assert main([*arguments, "--out", str(out)]) == 130
    assert capsys.readouterr().err == f"limelm: error: interrupted; {kept.format(out=out)}\n"
    written = json.loads((out / "bench.json").read_text())["times"] if before else []
    assert [row["case"] for row in written] == cases[:before]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shape", "deep"], "--shape: not with --from, whose model has its own"),
        (["--num-hidden-layers", "2"], "--num-hidden-layers: not with --from"),
        (["--hidden-size", "32"], "--hidden-size: not with --from"),
        (["--intermediate-size", "32"], "--intermediate-size: not with --from"),
        (["--num-attention-heads", "2"], "--num-attention-heads: not with --from"),
        (["--num-key-value-heads", "2"], "--num-key-value-heads: not with --from"),
        (["--vocab-size", "20"], "--vocab-size: not with --from"),
        (["--depths", "2,4"], "--depths: not with --from"),
        (["--pruning"], "--pruning: not with --from"),
        (["--cases", "kv,hc"], "--cases: 'hc' is not one of kv, static, dynamic"),
        (["--workloads", "sleep"], "--workloads: 'sleep' is not one of train, train-routers, forward, decode"),
        (["--sequence-length", "65"], "--workloads: 'train': 65 tokens are more than the 64"),
    ],
)
def test_bad_input_is_one_line(checkpoint, tmp_path, capsys, options, message):
    out = tmp_path / "bench"
    assert main(["bench", "--from", str(checkpoint), "--device", "cpu", "--out", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_a_model_that_cannot_be_measured_is_one_line(checkpoint, tmp_path, capsys):
    limelm.save_adapter(limelm.attach(limelm.loading.load_model(checkpoint)), tmp_path / "adapter")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("adapter", "is an adapter; name the model that it is for"),
        ("empty", "not a checkpoint (no readable config.json)"),
    ):
        out = tmp_path / "bench"
        assert main(["bench", "--from", str(tmp_path / name), "--device", "cpu", "--out", str(out), *TINY_OPTIONS]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not out.exists()


def test_routers_that_fit_no_norm_are_refused_before_anything_is_measured(base, monkeypatch):
    base.model.layers[1].input_layernorm = torch.nn.Sequential(torch.nn.Linear(32, 32))
    assert attached_cases(base, ["kv"], [], TINY)
    with pytest.raises(UserError, match="not an RMSNorm or LayerNorm"):
        attached_cases(base, ["kv", "static"], [], TINY)
    assert not router_parameters(base)
