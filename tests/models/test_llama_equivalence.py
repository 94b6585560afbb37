"""`routing="none"` is HF Llama to the bit, and `routing="kv"` starts as Llama where that is asked for."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limelm import LimeForCausalLM
from tests.models.variants import TINY, assert_same_gradients, gradients, randomize, tiny_config, tiny_model, token_ids

OPTIONS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "gqa": {"num_key_value_heads": 2},
    "mqa": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "head_dim": {"head_dim": 12},
    "gelu": {"hidden_act": "gelu"},
    "eps": {"rms_norm_eps": 1e-3},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "rope_linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}},
    "rope_dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}},
    "rope_llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "rope_yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0}},
}
options = pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)


def hf_llama(**changes) -> LlamaForCausalLM:
    return randomize(LlamaForCausalLM(LlamaConfig(**(TINY | changes)))).eval()


@options
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_llama_weights_give_llama_logits_bit_for_bit(changes, attention):
    llama = hf_llama(**changes)
    model = LimeForCausalLM(tiny_config("none", **changes)).eval()
    assert model.load_state_dict(llama.state_dict(), strict=True)
    llama.set_attn_implementation(attention)
    model.set_attn_implementation(attention)
    input_ids = token_ids(tokens=40)
    padding = torch.ones_like(input_ids)
    padding[0, :3] = 0
    for inputs in ({}, {"attention_mask": padding}):
        assert torch.equal(model(input_ids, **inputs).logits, llama(input_ids, **inputs).logits)


@options
@torch.no_grad()
def test_a_saved_llama_checkpoint_loads_to_the_bit(changes, tmp_path):
    llama = hf_llama(**changes)
    llama.save_pretrained(tmp_path)
    model = LimeForCausalLM.from_pretrained(tmp_path, routing="none")
    assert torch.equal(model(token_ids(tokens=40)).logits, llama(token_ids(tokens=40)).logits)


@torch.no_grad()
def test_rope_beyond_the_trained_length_follows_llama():
    """Dynamic scaling changes the frequencies with the length, and back."""
    changes = OPTIONS["rope_dynamic"]
    llama, model = hf_llama(**changes), tiny_model("none", **changes)
    for tokens in (90, 20):
        ids = token_ids(tokens=tokens)
        assert torch.equal(model(ids).logits, llama(ids).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_other_dtypes_give_llama_logits_bit_for_bit(dtype):
    llama, model = hf_llama().to(dtype), tiny_model("none").to(dtype)
    assert torch.equal(model(token_ids()).logits, llama(token_ids()).logits)


def test_llama_gradients_and_loss():
    llama, model = hf_llama().train(), tiny_model("none").train()
    losses = [net(token_ids(), labels=token_ids()).loss for net in (llama, model)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    assert_same_gradients(gradients(model), gradients(llama), tolerance=4e-6)  # roundings differ from CPU to CPU


def test_generation_is_llamas():
    llama, model = hf_llama(), tiny_model("none")
    generated = [net.generate(token_ids(tokens=4), max_new_tokens=8, do_sample=False) for net in (llama, model)]
    assert torch.equal(*generated)


@pytest.mark.parametrize(
    "changes", [OPTIONS[name] for name in ("tied", "gqa", "biases")], ids=["tied", "gqa", "biases"]
)
@torch.no_grad()
def test_kv_routing_with_identity_init_starts_as_llama(changes, tmp_path):
    llama = hf_llama(**changes)
    llama.save_pretrained(tmp_path)
    model = LimeForCausalLM.from_pretrained(tmp_path, routing="kv", routing_init="identity")
    expected = llama(token_ids()).logits
    torch.testing.assert_close(model(token_ids()).logits, expected, atol=1e-6 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("routing", ["static", "dynamic", "kv"])
@torch.no_grad()
def test_routing_is_not_llama(routing, tmp_path):
    """Guards the tests above: the same weights with a routing give other logits."""
    llama = hf_llama()
    llama.save_pretrained(tmp_path)
    model = LimeForCausalLM.from_pretrained(tmp_path, routing=routing)
    assert (model(token_ids()).logits - llama(token_ids()).logits).abs().max() > 1e-3
