"""How many layers run: the first `config.num_hidden_layers`, as in HF's models; and which they may be."""

import pytest
import torch

from limelm import LimeForCausalLM
from tests.models.entries import ENTRIES
from tests.models.variants import MAIN_VARIANTS, all_variants, tiny_model, token_ids

CASES = {variant: (variant, {}) for variant in MAIN_VARIANTS}
CASES |= {
    f"{variant}_bounded": (variant, {"routing_sources": {"first": 1, "last": 2}}) for variant in ("dynamic", "kv")
}
CASES |= {f"{variant}_reference": (variant, {"routing_backend": "reference"}) for variant in ("static", "kv")}
cases = pytest.mark.parametrize("case", CASES)


def count_calls(model) -> list[int]:
    """The list to which the layers write their numbers as they run."""
    calls: list[int] = []
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda *_, i=i: calls.append(i))
    return calls


@cases
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_fewer_layers_are_a_model_cut_after_them(case, layers, tmp_path):
    variant, changes = CASES[case]
    model = tiny_model(variant, **changes)
    model.save_pretrained(tmp_path)
    cut = type(model).from_pretrained(tmp_path, num_hidden_layers=layers, **changes)
    assert len(cut.model.layers) == layers
    calls = count_calls(model)
    model.config.num_hidden_layers = layers
    for net in (model, cut):
        net(token_ids(), labels=token_ids()).loss.backward()
    assert calls == list(range(layers))
    for name, parameter in cut.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        outputs = [net(token_ids(), output_hidden_states=True) for net in (model, cut)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, atol=1e-6, rtol=1e-5)
    assert len(outputs[0].hidden_states) == layers + 1


@all_variants
@torch.no_grad()
def test_early_exit_gives_the_tokens_of_generate(variant):
    model = tiny_model(variant)
    calls = count_calls(model)
    arguments = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(token_ids(1), **arguments)
    calls.clear()
    assert torch.equal(model.generate(token_ids(1), assistant_early_exit=2, **arguments), expected)
    assert calls.count(0) == calls.count(1) > calls.count(2) == calls.count(3)
    assert model.config.num_hidden_layers == 4


#: Variants whose readout has parameters for every layer.
READOUTS_OF_ALL_LAYERS = {*ENTRIES["mudd_former"].variants, "deep_cross_attention"}


@all_variants
@pytest.mark.parametrize("cut_off", [False, True])
@torch.no_grad()
def test_a_model_of_fewer_layers_is_saved_as_it_computes_or_not_at_all(variant, cut_off, tmp_path):
    model = tiny_model(variant)
    model.config.num_hidden_layers = 2
    if cut_off:
        del model.model.layers[2:]
    if variant in READOUTS_OF_ALL_LAYERS:
        with pytest.raises(ValueError, match=r"num_hidden_layers=2, and the model was built with 4: its .* is for 4"):
            model.save_pretrained(tmp_path)
        assert not any(tmp_path.iterdir())
        return
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(token_ids()).logits, model(token_ids()).logits)


@pytest.mark.parametrize("case", [case for case in CASES if "hc" not in case])  # its layers count no sources
@torch.no_grad()
def test_layers_that_were_cut_off_at_the_end_and_layers_that_were_moved(case):
    variant, changes = CASES[case]
    shorter = tiny_model(variant, **changes)
    del shorter.model.layers[2:]
    assert shorter(token_ids()).logits.isfinite().all()
    without, swapped = tiny_model(variant, **changes), tiny_model(variant, **changes)
    del without.model.layers[1]
    for i, layer in enumerate(without.model.layers):
        layer.self_attn.layer_idx = i
    without.config.num_hidden_layers = 3
    layers = swapped.model.layers
    layers[1], layers[2] = layers[2], layers[1]
    for model, place, built in ((without, 1, 2), (swapped, 1, 2)):
        if variant == "none":
            assert model(token_ids()).logits.isfinite().all()
        else:
            with pytest.raises(ValueError, match=f"layer {place} was built as layer {built} .* not taken out or moved"):
                model(token_ids())


def test_the_number_of_layers_is_the_configs_at_each_call():
    model = tiny_model("kv")
    assert isinstance(model, LimeForCausalLM)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for layers in (4, 2, 4):
            model.config.num_hidden_layers = layers
            torch.testing.assert_close(compiled(token_ids()).logits, model(token_ids()).logits, atol=1e-5, rtol=1e-5)
