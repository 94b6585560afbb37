"""Accelerate's offloading: a module has its weights for the length of its own call only."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from transformers import AutoModelForCausalLM

from tests.models.variants import VARIANTS, tiny_model, token_ids

CASES = {variant: (variant, {}) for variant in VARIANTS}
CASES |= {f"{variant}_bounded": (variant, {"routing_sources": {"first": 1, "last": 2}}) for variant in ("static", "kv")}
CASES |= {f"{variant}_reference": (variant, {"routing_backend": "reference"}) for variant in ("static_bias", "dynamic")}
CASES |= {"kv_reference": ("kv", {"routing_backend": "reference"})}
cases = pytest.mark.parametrize("case", CASES)
pytestmark = pytest.mark.filterwarnings("ignore:.*meta device.*")


def model_and_logits(case: str):
    variant, changes = CASES[case]
    model = tiny_model(variant, **changes)
    with torch.no_grad():
        return model, model(token_ids()).logits


def is_offloaded(model) -> bool:
    return all(parameter.is_meta for parameter in model.model.layers[2].parameters())


@cases
@torch.no_grad()
def test_from_pretrained_with_layers_on_disk(case, tmp_path):
    model, expected = model_and_logits(case)
    model.save_pretrained(tmp_path / "model")
    where = {f"model.layers.{layer}": "cpu" if layer < 2 else "disk" for layer in range(4)}
    where |= {f"model.{name}": "cpu" for name, _ in model.model.named_children() if name != "layers"} | {
        "lm_head": "cpu"
    }
    changes = {name: value for name, value in CASES[case][1].items() if name == "routing_backend"}
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=where, offload_folder=tmp_path / "offload", **changes
    )
    assert is_offloaded(loaded)
    assert torch.equal(loaded(token_ids()).logits, expected)
    generated = [net.generate(token_ids(), max_new_tokens=3, do_sample=False) for net in (loaded, model)]
    assert torch.equal(*generated)
    assert is_offloaded(loaded)


@cases
@torch.no_grad()
def test_cpu_offload(case):
    model, expected = model_and_logits(case)
    cpu_offload(model, torch.device("cpu"))
    assert is_offloaded(model)
    for _ in range(2):
        assert torch.equal(model(token_ids()).logits, expected)
    assert is_offloaded(model)


@pytest.mark.parametrize("case", ["static_bias", "static_top_p", "dynamic", "kv", "hc_dynamic"])
@torch.no_grad()
def test_disk_offload_and_hooks_that_only_move(case, tmp_path):
    model, expected = model_and_logits(case)
    dispatch_model(model, dict.fromkeys(("model", "lm_head"), "cpu"), main_device="cpu", force_hooks=True)
    assert "_hf_hook" in model.model.layers[1].self_attn.k_proj.__dict__
    assert torch.equal(model(token_ids()).logits, expected)
    model, expected = model_and_logits(case)
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    assert torch.equal(model(token_ids()).logits, expected)


@pytest.mark.parametrize("case", ["static", "dynamic"])
@torch.no_grad()
def test_a_forward_of_somebody_else_below_the_hooks_is_still_refused(case):
    model, _ = model_and_logits(case)
    projection = model.model.layers[1].self_attn.k_proj
    projection.forward = lambda inputs: inputs
    cpu_offload(model, torch.device("cpu"))
    with pytest.raises(TypeError, match="routing_backend='reference'"):
        model(token_ids())
