"""Quantized bases: what is attached changes nothing at first, and then as much as it does in the model itself."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from limelm import attach, detach, load_adapter, save_adapter
from limelm.models.families import find_attention_layers, project_heads
from limelm.models.input_norms import InputNorm, MixedInput
from tests.families import family_model, router_parameters, tokens, train_routers

routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])


def bitsandbytes(bits: int, folder):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    family_model("llama").save_pretrained(folder)
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu")


def torchao(model):
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def quanto(model):
    library = pytest.importorskip("optimum.quanto")
    library.quantize(model, weights=library.qint8)
    library.freeze(model)
    return model


BASES = {
    "bitsandbytes 8": lambda folder: bitsandbytes(8, folder),
    "bitsandbytes 4": lambda folder: bitsandbytes(4, folder),
    "torchao": lambda folder: torchao(family_model("llama")),
    "quanto": lambda folder: quanto(family_model("llama")),
}


@pytest.mark.parametrize("base", BASES)
@routings
def test_attached_to_a_quantized_base(routing, base, tmp_path):
    model = BASES[base](tmp_path / "base")
    before = model(tokens()).logits
    attach(model, routing)
    assert torch.equal(model(tokens()).logits, before)
    train_routers(model)
    routed = model(tokens()).logits
    assert not torch.equal(routed, before)
    save_adapter(model, tmp_path / "adapter")
    again = load_adapter(BASES[base](tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(again(tokens()).logits, routed, atol=1e-5, rtol=1e-4)
    assert torch.equal(detach(model)(tokens()).logits, before)


@pytest.mark.parametrize("base", BASES)
def test_each_heads_own_input_is_projected_by_the_module_itself(base, tmp_path):
    """Head by head, as the quantized projection makes them from one input."""
    model = BASES[base](tmp_path / "base")
    inputs = torch.randn(2, 5, 2, 32, requires_grad=True)  # without, bitsandbytes wants larger weights
    for layer in find_attention_layers(model):
        for projection, which in zip(layer.projections, ("key", "value"), strict=True):
            module = getattr(layer.module, projection.name)
            got = project_heads(projection, module, which, MixedInput(inputs, InputNorm(None)))
            wanted = [projection.split(module(inputs[:, :, head]))[which][:, :, head] for head in range(2)]
            torch.testing.assert_close(got, torch.stack(wanted, dim=-2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("quantize", [torchao, quanto])
@routings
def test_quantized_after_attach(routing, quantize):
    plain, model = family_model("llama"), train_routers(attach(family_model("llama"), routing))
    rounding = (quantize(copy.deepcopy(plain))(tokens()).logits - plain(tokens()).logits).abs().max()
    wanted = model(tokens()).logits
    difference = (quantize(model)(tokens()).logits - wanted).abs().max()
    assert 0 < difference < 4 * rounding
    assert len(router_parameters(model)) == len(router_parameters(attach(family_model("llama"), routing)))


def test_weights_that_cannot_be_read_are_refused_at_attach(monkeypatch):
    from limelm.adapters import parameters
    from limelm.errors import UserError

    def unreadable(tensor):
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(parameters, "whole", unreadable)
    with pytest.raises(UserError, match="weights of type Tensor cannot be read; attach routers before"):
        attach(family_model("llama"))
