"""Every causal language model of the installed transformers: refused by `attach` in one line, or right.

All of them take minutes: `LIMELM_ALL_FAMILIES=1 pytest tests/adapters/test_all_families.py`. Those that were once taken
for what they are not are always tried.
"""

import os

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from limelm import attach, detach
from limelm.adapters.parameters import router_parameters
from limelm.errors import UserError
from limelm.registration import MODELS

# By the name of a field in any family's configuration.
SMALL = {
    **dict.fromkeys(("vocab_size",), 61),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_experts", "num_local_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout", "hidden_dropout"), 0),
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "hidden_dropout_prob"), 0.0),
    "attention_probs_dropout_prob": 0.0,
    "head_dim": 8,
    "rotary_dim": 4,
    "sliding_window": 4,
    "n_routed_experts": 4,
    "is_decoder": True,
}
LARGEST = 2 * 10**7
ALWAYS = (
    "stablelm",
    "nemotron",
    "trocr",
    "bloom",
    "gptj",
    "mimo_v2_flash",
    "rwkv",
    "cohere",
    "opt",
    "glm4",
    "starcoder2",
)
WITHOUT_KEYWORDS = ("stablelm", "nemotron", "trocr", "bloom", "gptj")


def chosen() -> list[str]:
    known = [name for name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) if name not in MODELS]
    return known if os.environ.get("LIMELM_ALL_FAMILIES") else [name for name in ALWAYS if name in known]


def small_model(model_type: str):
    """A small random model; skips the test where these fields do not make one that runs."""
    kind = CONFIG_MAPPING[model_type]
    try:
        config = kind(**{name: value for name, value in SMALL.items() if name in kind().to_dict()})
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
        assert size < LARGEST
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        model(input_ids=tokens())
    except Exception as error:
        pytest.skip(f"no small model: {type(error).__name__}: {str(error)[:80]}")
    return model


def tokens():
    return torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(0))


def uncached_and_cached(model):
    first = model(input_ids=tokens()[:, :5], use_cache=True)
    second = model(input_ids=tokens()[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    return model(input_ids=tokens()).logits, torch.cat([first.logits, second.logits], dim=1)


@pytest.mark.parametrize("model_type", chosen())
@pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
def test_refused_in_one_line_or_right(model_type, routing):
    model = small_model(model_type)
    before = model(input_ids=tokens()).logits.detach()
    caches = cache_is_right(model)
    try:
        attach(model, routing)
    except UserError as error:
        assert "\n" not in str(error)
        assert torch.equal(model(input_ids=tokens()).logits, before)
        return
    assert model_type not in WITHOUT_KEYWORDS
    assert torch.equal(model(input_ids=tokens()).logits, before)
    routers = router_parameters(model)
    with torch.no_grad():
        for parameter in routers.values():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    routed = model(input_ids=tokens()).logits
    assert not torch.allclose(routed, before, atol=1e-6)
    changed = tokens()
    changed[:, 6:] = 63 - changed[:, 6:]  # from 3 to 60, as the others
    torch.testing.assert_close(model(input_ids=changed).logits[:, :6], routed[:, :6], atol=1e-5, rtol=1e-4)
    if caches:
        torch.testing.assert_close(*uncached_and_cached(model), atol=1e-4, rtol=1e-4)
    model.train()
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in routers.values())
    detach(model.eval())
    assert torch.equal(model(input_ids=tokens()).logits, before)


def cache_is_right(model) -> bool:
    """Whether the model itself goes on from a cache as without one; some cannot."""
    try:
        return torch.allclose(*uncached_and_cached(model), atol=1e-4)
    except Exception:
        return False


@pytest.mark.parametrize("model_type", WITHOUT_KEYWORDS)
def test_families_that_hand_no_keywords_on_are_refused(model_type):
    with pytest.raises(UserError, match="its layers do not hand keywords on to attention"):
        attach(small_model(model_type))
