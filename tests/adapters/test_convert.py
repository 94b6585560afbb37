"""Attached routers and native ones are two ways to write the same model."""

import json

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from limelm import LimeConfig, LimeForCausalLM, attach, save_adapter, set_trainable
from limelm.adapters.checkpoint import load_model
from limelm.adapters.convert import largest_difference, to_attached, to_native
from limelm.cli import main
from limelm.data import load_prepared_tokenizer
from limelm.errors import UserError
from tests.adapters.families import GROUPED, MULTI_HEAD, family_model, router_parameters, tokens, train_routers
from tests.recipes import prepared

ROPE = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}
BASES = {
    "grouped": LlamaConfig(**GROUPED),
    "biased": LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "tied": LlamaConfig(**MULTI_HEAD, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "wide heads": LlamaConfig(**GROUPED, head_dim=12, **ROPE),
    "mistral": MistralConfig(**GROUPED, sliding_window=None),
    "qwen2": Qwen2Config(**GROUPED, use_sliding_window=False),
}
OPTIONS = [{}, {"routing_sources": {"first": 1, "last": 1}}]
bases = pytest.mark.parametrize("base", BASES)


def attached(base: str, routing: str, gate: float = 0.3, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(BASES[base]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    train_routers(attach(model, routing, **options))
    with torch.no_grad():
        for name, parameter in router_parameters(model).items():
            if name.endswith("gate"):
                parameter.fill_(gate)
    return model


@bases
@pytest.mark.parametrize(
    ("routing", "gate"), [("kv", 0), ("static", 0.3), ("static", 0), ("static", 1), ("dynamic", 1)]
)
@pytest.mark.parametrize("options", OPTIONS)
def test_native_has_the_attached_logits(base, routing, gate, options):
    model = attached(base, routing, gate, **options)
    native = to_native(model)
    assert isinstance(native, LimeForCausalLM) and native.config.routing == routing
    torch.testing.assert_close(native(tokens()).logits, model(tokens()).logits, atol=1e-5, rtol=1e-5)


@bases
@pytest.mark.parametrize("share_kv", [True, False])
def test_a_scale_goes_into_the_projections(base, share_kv):
    model = attached(base, "scale", share_kv=share_kv)
    native = to_native(model)
    assert native.config.routing == "none"
    torch.testing.assert_close(native(tokens()).logits, model(tokens()).logits, atol=1e-5, rtol=1e-5)


def native_model(routing: str, **options) -> LimeForCausalLM:
    torch.manual_seed(0)
    model = LimeForCausalLM(LimeConfig(**GROUPED, attention_bias=True, routing=routing, **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
@pytest.mark.parametrize("options", OPTIONS)
def test_there_and_back(routing, options):
    native = native_model(routing, **options)
    model = to_attached(native)
    assert isinstance(model, LlamaForCausalLM)
    torch.testing.assert_close(model(tokens()).logits, native(tokens()).logits, atol=1e-5, rtol=1e-5)
    again = to_native(model)
    torch.testing.assert_close(again(tokens()).logits, native(tokens()).logits, atol=1e-5, rtol=1e-5)


def test_bfloat16_rounds_the_routers_only():
    model = attached("grouped", "kv").to(torch.bfloat16)
    native = to_native(model)
    assert native.dtype == torch.bfloat16
    difference, largest = largest_difference(model, native)
    assert 0 < difference < 0.02 * largest


def test_a_lora_is_merged():
    model = attached("grouped", "kv")
    model.add_adapter(LoraConfig(r=2, target_modules=["k_proj", "o_proj"], init_lora_weights=False))
    set_trainable(model, "lora")
    expected = model(tokens()).logits
    torch.testing.assert_close(to_native(model)(tokens()).logits, expected, atol=1e-5, rtol=1e-5)


def sharded_gate(value: float):
    model = attached("grouped", "static")
    with torch.no_grad():
        router_parameters(model)["model.layers.2.self_attn.router.gate"][0, 1] = value
    return model


def without_gain():
    model = native_model("static")
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[3] = 0
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: family_model("llama"), "has no attached routers"),
        (lambda: attached("grouped", "kv", share_kv=False), "share_kv=False: native layers have one router"),
        (lambda: attached("grouped", "dynamic", gate=0.5), "layer 1: its gates are not all one"),
        (lambda: sharded_gate(1.25), r"layer 2, head 1: its gate of 1.25 is outside \[0, 1\]"),
        (lambda: sharded_gate(-0.1), r"layer 2, head 1: its gate of -0.1 is outside \[0, 1\]"),
        (lambda: attach(family_model("gemma2")), "model_type='gemma2': native models are Llamas; allowed: llama, mis"),
        (lambda: attach(family_model("mistral")), "sliding_window=4: native layers read all earlier tokens"),
        (lambda: attach(family_model("qwen2")), "sliding_window=4: native layers read all earlier tokens"),
    ],
)
def test_what_no_native_model_can_do_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        to_native(make())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: native_model("none"), "it is a Llama already"),
        (lambda: native_model("static", routing_top_p=0.9), "routing_top_p=0.9: attached routers read every source"),
        (without_gain, "layer 1: a gain of zero in input_layernorm"),
    ],
)
def test_what_no_attached_router_can_do_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        to_attached(make())


@pytest.fixture
def saved(tmp_path):
    """An adapter with its base, and a tokenizer."""
    tokenizer = load_prepared_tokenizer(prepared(tmp_path / "tokens"))
    base = AutoModelForCausalLM.from_config(LlamaConfig(**{**GROUPED, "vocab_size": len(tokenizer)}))
    for thing in (base, tokenizer):
        thing.save_pretrained(tmp_path / "base")
    save_adapter(train_routers(attach(load_model(tmp_path / "base"))), tmp_path / "adapter")
    return tmp_path


def test_from_the_command_line_and_back(saved, capsys):
    assert main(["convert", str(saved / "adapter"), "--out", str(saved / "native")]) == 0
    assert "native, routing='kv'; the largest difference between logits is" in capsys.readouterr().out
    assert main(["convert", str(saved / "native"), "--out", str(saved / "back")]) == 0
    models = [load_model(saved / name) for name in ("adapter", "native", "back")]
    logits = [model(tokens()).logits for model in models]
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=1e-5, rtol=1e-5)
    assert isinstance(models[1], LimeForCausalLM)
    assert json.loads((saved / "back" / "lime_adapter.json").read_text())["base_model"] == "base"
    for name in ("native", "back"):
        assert main(["generate", str(saved / name), "Document", "--max-new-tokens", "2"]) == 0
    assert sorted(path.name for path in saved.iterdir()) == ["adapter", "back", "base", "native", "tokens"]


def test_bad_input_is_one_line_and_leaves_nothing(saved, capsys):
    save_adapter(attach(load_model(saved / "base"), share_kv=False), saved / "apart")
    (saved / "full").mkdir()
    (saved / "full" / "file").touch()
    before = sorted(path.name for path in saved.iterdir())
    for source, out, message in (
        ("base", "out", "neither an adapter nor a native LIMe checkpoint (model_type='llama')"),
        ("nowhere", "out", "nowhere: "),
        ("apart", "out", "cannot be converted: share_kv=False"),
        ("adapter", "full", "already holds other files"),
    ):
        assert main(["convert", str(saved / source), "--out", str(saved / out)]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("limelm: error: ") and message in error
    assert sorted(path.name for path in saved.iterdir()) == before
