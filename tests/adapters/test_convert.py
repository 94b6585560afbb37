"""Attached routers and native ones are two ways to write the same model."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from limelm import HyperConnectionConfig, HyperConnectionForCausalLM, LimeConfig, LimeForCausalLM, attach, set_trainable
from limelm.adapters.convert import largest_difference, to_attached, to_native
from limelm.errors import UserError
from tests.families import GROUPED, MULTI_HEAD, family_model, router_parameters, tokens, train_routers

ROPE = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500.0}
BASES = {
    "grouped": LlamaConfig(**GROUPED),
    "biased": LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "tied": LlamaConfig(**MULTI_HEAD, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "wide heads": LlamaConfig(**GROUPED, head_dim=12, **ROPE),
    "llama 3": LlamaConfig(**GROUPED, rope_parameters={**LLAMA3, "original_max_position_embeddings": 16}),
    "mistral": MistralConfig(**GROUPED, sliding_window=None),
    "qwen2": Qwen2Config(**GROUPED, use_sliding_window=False),
}
BOUNDED = {"routing_sources": {"first": 1, "last": 1}}
bases = pytest.mark.parametrize("base", BASES)


def attached(base: str, routing: str, gate: float = 0.3, dtype: torch.dtype = torch.float32, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(BASES[base]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    train_routers(attach(model.to(dtype), routing, **options))
    with torch.no_grad():
        for name, parameter in router_parameters(model).items():
            if name.endswith("gate"):
                parameter.fill_(gate)
    return model


@bases
@pytest.mark.parametrize(
    ("routing", "gate"), [("kv", 0), ("static", 0.3), ("static", 0), ("static", 1), ("dynamic", 1)]
)
@pytest.mark.parametrize("options", [{}, BOUNDED, {"share_kv": False}])
def test_native_has_the_attached_logits(base, routing, gate, options):
    model = attached(base, routing, gate, **options)
    native = to_native(model)
    assert isinstance(native, LimeForCausalLM) and native.config.routing == routing
    torch.testing.assert_close(native(tokens()).logits, model(tokens()).logits, atol=1e-5, rtol=1e-5)
    assert all(parameter.isfinite().all() for parameter in native.parameters())


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
@pytest.mark.parametrize("options", [{}, BOUNDED, {"routing_share_kv": False}])
def test_there_and_back(routing, options):
    native = native_model(routing, **options)
    model = to_attached(native)
    assert isinstance(model, LlamaForCausalLM)
    torch.testing.assert_close(model(tokens()).logits, native(tokens()).logits, atol=1e-5, rtol=1e-5)
    again = to_native(model)
    torch.testing.assert_close(again(tokens()).logits, native(tokens()).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("base", ["grouped", "tied", "qwen2"])
@pytest.mark.parametrize(("routing", "gate"), [("kv", 0), ("static", 0.3), ("dynamic", 1)])
def test_bfloat16_rounds_the_routers_only(base, routing, gate):
    model = attached(base, routing, gate, torch.bfloat16)
    assert {parameter.dtype for parameter in router_parameters(model).values()} == {torch.float32}
    native = to_native(model)
    assert {parameter.dtype for parameter in native.parameters()} == {torch.bfloat16}
    difference, largest = largest_difference(model, native)
    assert 0 < difference < 3e-3 * largest  # 1.4e-3, measured
    back = to_attached(native)
    for made in (native, back):  # as `from_pretrained` leaves them
        assert {value.dtype for name, value in made.named_buffers() if "inv_freq" in name} == {torch.float32}
    assert back.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in router_parameters(back).values()} == {torch.float32}
    difference, largest = largest_difference(native, back)
    assert difference < 1e-5 * largest  # what was rounded once stays


LORA = {"r": 2, "target_modules": ["k_proj", "o_proj"], "init_lora_weights": False}


def with_lora(model, **options):
    model.add_adapter(LoraConfig(**{**LORA, **options}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
    return model.eval()


def has_converted(convert, model, what=None):
    """Equal logits, and the model is what it was: to be trained on, and saved beside its LoRA."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(tokens()).logits
    torch.testing.assert_close(convert(what or model)(tokens()).logits, expected, atol=2e-5, rtol=1e-5)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("routing", ["kv", "static", "scale"])
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head", "router"]}])
def test_a_lora_is_merged_in_a_copy(routing, options):
    model = attached("grouped", routing)
    without = model(tokens()).logits
    model = with_lora(model, **options)
    assert not torch.allclose(model(tokens()).logits, without, atol=1e-3)
    set_trainable(model, "lora")
    has_converted(to_native, model)


def test_peft_may_be_around_the_model():
    model = get_peft_model(attached("grouped", "kv"), LoraConfig(**LORA, modules_to_save=["router"])).eval()
    has_converted(to_native, model)
    has_converted(to_native, model, model.get_base_model())


@pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
def test_a_lora_upon_a_native_model_is_merged(routing):
    has_converted(to_attached, with_lora(native_model(routing), target_modules=["q_proj", "o_proj"]))


def sharded_gate(value: float):
    model = attached("grouped", "static")
    with torch.no_grad():
        router_parameters(model)["model.layers.2.self_attn.router.gate"][0, 1] = value
    return model


def disabled():
    model = with_lora(attached("grouped", "kv"))
    model.disable_adapters()
    return model


def quantized():
    model = attached("grouped", "kv")
    model.hf_quantizer = object()
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
        (lambda: attached("grouped", "dynamic", gate=0.5), "layer 1: its gates are not all one"),
        (lambda: sharded_gate(1.25), r"layer 2, head 1: its gate of 1.25 is outside \[0, 1\]"),
        (lambda: sharded_gate(-0.1), r"layer 2, head 1: its gate of -0.1 is outside \[0, 1\]"),
        (lambda: attach(family_model("gemma2")), "model_type='gemma2': native models are Llamas; allowed: llama, mis"),
        (lambda: attach(family_model("mistral")), "sliding_window=4: native layers read all earlier tokens"),
        (lambda: attach(family_model("qwen2")), "sliding_window=4: native layers read all earlier tokens"),
        (quantized, "quantized weights: convert the model that they were made from"),
        (disabled, "layers.0.self_attn.k_proj: what PEFT has put in is disabled"),
        (lambda: with_lora(attached("tied", "kv"), target_modules=["lm_head"]), "one of two tied embeddings"),
        (
            lambda: with_lora(attached("tied", "kv"), modules_to_save=["lm_head"]),
            "one of two tied embeddings cannot be",
        ),
        (
            lambda: with_lora(attached("grouped", "kv"), lora_bias=True),
            "layers.0.self_attn.k_proj: what PEFT has put in cannot be merged .*bias",
        ),
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
        (lambda: native_model("static", routing_temperature=2.0), r"routing_temperature=2.0: only 1\.0 is converted"),
        (lambda: native_model("dynamic", routing_share_heads=True), "routing_share_heads=True: only False"),
        (lambda: native_model("depth_attention"), "routing='depth_attention': no attached router does the same"),
        (without_gain, "layer 1: a gain of zero in input_layernorm"),
        (lambda: family_model("llama"), "model_type='llama': not a native LIMe model; allowed: lime"),
        (
            lambda: HyperConnectionForCausalLM(HyperConnectionConfig(**GROUPED)),
            "model_type='hyper_connection': not a native LIMe model",
        ),
    ],
)
def test_what_no_attached_router_can_do_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        to_attached(make())
