"""`limelm bench --peers`: other packages' models, each beside its own plain one, next to ours."""

import dataclasses
import json
from importlib import metadata

import pytest
import torch
from transformers import LlamaForCausalLM

from limelm.benchmark.compare import Conditions, memory_of
from limelm.benchmark.peers import PEER_WORKLOADS, PEERS, HyperConnectedLayer, hyper_connected_llama
from limelm.benchmark.workloads import WORKLOADS
from limelm.cli import main
from limelm.extras import REQUIREMENTS
from tests.benchmark import TINY
from tests.benchmark.test_benchmark import TINY_OPTIONS

CPU = torch.device("cpu")
MODULES = {"x-transformers": "x_transformers", "x-transformers-plain": "x_transformers"}
COMMAND = ["bench", "--peers", "--rounds", "1", *TINY_OPTIONS]


def peer(name):
    pytest.importorskip(MODULES.get(name, "hyper_connections"), reason="pip install -e '.[peers]'")
    return PEERS[name].at(TINY)


@pytest.fixture
def only(monkeypatch):
    """Make it look as if no package but these were installed."""
    version = metadata.version

    def install(*packages):
        def found(name):
            if any(each.startswith(name) for each in REQUIREMENTS["peers"]) and name not in packages:
                raise metadata.PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr(metadata, "version", found)

    return install


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_runs_every_task_and_sees_no_future(name):
    case = peer(name)
    model, baseline = case.model(CPU, torch.float32), case.baseline.model(CPU, torch.float32)
    sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (model, baseline)]
    assert case.parameters <= sizes[1] <= sizes[0] < 1.2 * sizes[1]
    for task in PEER_WORKLOADS:
        WORKLOADS[task][0](model, TINY)()
    tokens = torch.randint(50, (2, 8))
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits
        changed = model(input_ids=tokens.index_fill(1, torch.tensor([5]), 0), use_cache=False).logits
        last = model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits
    assert logits.shape == (2, 8, 50)
    torch.testing.assert_close(changed[:, :5], logits[:, :5])
    assert not torch.allclose(changed[:, 5:], logits[:, 5:])
    torch.testing.assert_close(last, logits[:, -1:])


def test_layers_are_integrated_in_the_peer_and_not_in_its_baseline():
    case = peer("x-transformers")
    model, plain = case.model(CPU, torch.float32), case.baseline.model(CPU, torch.float32)
    routed, without = (any("DynamicLIMe" in type(each).__name__ for each in m.modules()) for m in (model, plain))
    assert routed and not without
    assert plain.embedding.weight.shape == model.embedding.weight.shape == (50, 32)


def test_streams_of_the_package_begin_as_llama():
    """Its connections start at the residual stream: with n equal streams, their sum is n times LLaMA's."""
    peer("hyper-connections")
    torch.manual_seed(0)
    model = hyper_connected_llama(TINY).eval()
    assert all(isinstance(layer, HyperConnectedLayer) for layer in model.model.layers)
    with torch.no_grad():  # leave the static part alone, which is the identity beside one stream's input
        for name, parameter in model.named_parameters():
            if "dynamic" in name and "scale" in name:
                parameter.zero_()
    llama = LlamaForCausalLM(model.config).eval()
    for own, layer in zip(llama.model.layers, model.model.layers, strict=True):
        own.input_layernorm, own.self_attn = layer.attention.branch.norm, layer.attention.branch.attention
        own.post_attention_layernorm, own.mlp = layer.mlp.branch
    llama.model.embed_tokens.weight, llama.model.norm = model.model.embed_tokens.weight, model.model.norm
    llama.tie_weights()
    for norm in (each for each in llama.modules() if hasattr(each, "variance_epsilon")):
        norm.variance_epsilon = 0.0  # or the sum of streams is scaled by a little more
    tokens = torch.randint(50, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, llama(tokens).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["x-transformers", "hyper-connections"])
def test_memory_is_beside_its_own_baseline(name):
    case, conditions = peer(name), Conditions(1, CPU, torch.float32)
    plain = memory_of(case.baseline, "train", None, conditions)
    record = memory_of(case, "train", plain, conditions)
    assert record["saved_for_backward_bytes_ratio"] > 1.2


def test_command_line(tmp_path, capsys):
    for name in PEERS:
        peer(name)
    out = tmp_path / "bench"
    assert main([*COMMAND, "--num-hidden-layers", "2", "--cases", "kv", "--workloads", "train", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Ratios are to its own baseline.\n") and "left out" not in printed.err
    written = json.loads((out / "bench.json").read_text())
    assert [(row["case"], row["baseline"]) for row in written["times"]] == [
        ("x-transformers", "x-transformers-plain"),
        ("hyper-connections", "llama"),
        ("kv", "llama"),
    ]
    assert [row["case"] for row in written["memory"]] == [
        "x-transformers-plain",
        "x-transformers",
        "llama",
        "hyper-connections",
        "kv",
    ]


def test_depths_of_peers(tmp_path):
    peer("hyper-connections")
    out = tmp_path / "bench"
    assert main([*COMMAND, "--depths", "1,3", "--cases", "kv", "--out", str(out)]) == 0
    written = json.loads((out / "bench.json").read_text())["depths"]
    assert {(row["case"], row["layers"]) for row in written} >= {("hyper-connections", 1), ("hyper-connections", 3)}


def test_packages_that_are_missing_are_named_with_the_extra(only, tmp_path, capsys):
    only()
    out = tmp_path / "bench"
    assert main([*COMMAND, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("limelm: error: --peers: x-transformers>=2.31, hyper-connections>=0.4.11 are not installed")
    assert "limelm[peers]" in line and not out.exists()


def test_a_package_that_is_missing_is_left_out(only, tmp_path, capsys):
    peer("hyper-connections")
    only("hyper-connections")
    out = tmp_path / "bench"
    assert (
        main([*COMMAND, "--num-hidden-layers", "2", "--cases", "kv", "--workloads", "forward", "--out", str(out)]) == 0
    )
    assert "left out: x-transformers>=2.31 is not installed; install it with: pip" in capsys.readouterr().err
    written = json.loads((out / "bench.json").read_text())
    assert [row["case"] for row in written["times"]] == ["hyper-connections", "kv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workloads", "decode"], "--workloads: 'decode' is not one of train, forward"),
        (["--cases", "x-transformers-plain"], "--cases: 'x-transformers-plain' is not one of none, static"),
        (["--decode-from", "8"], "--decode-from: not with --peers"),
        (["--pruning"], "--peers: not with --pruning"),
        (["--from", "somewhere"], "not with --from"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, message):
    out = tmp_path / "bench"
    assert main(["bench", "--peers", "--device", "cpu", "--out", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_the_shape_is_the_same_for_all():
    wide = dataclasses.replace(TINY, hidden_size=64, intermediate_size=100)
    model = peer("x-transformers").at(wide).model(CPU, torch.float32)
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    assert {(200, 64), (64, 100)} <= shapes  # both halves of the gated MLP, and its output
