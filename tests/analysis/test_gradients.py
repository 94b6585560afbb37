"""Norms of the loss's gradient by layer."""

import pytest
import torch

from limelm import attach
from limelm.analysis import gradient_norms
from limelm.models.families import find_layers
from tests.families import CONFIGS, family_model
from tests.models.variants import main_variants, tiny_model, token_ids


def by_backward(model, ids):
    """The norms from gradients that are kept."""
    model.requires_grad_(True)
    model(input_ids=ids, labels=ids).loss.backward()
    norms = []
    for layer in find_layers(model):
        named = {name: weight.grad for name, weight in layer.named_parameters() if weight.grad is not None}
        own = [gradient for name, gradient in named.items() if "router" not in name and "connection" not in name]
        norms.append(float(torch.cat([gradient.flatten() for gradient in own]).norm()))
    model.zero_grad()
    return norms


@main_variants
def test_norms_of_a_backward_pass(variant):
    check(tiny_model(variant))


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_other_families(family):
    check(family_model(family))


@pytest.mark.parametrize("routing", ["kv", "static", "value-residual"])
def test_what_is_attached_is_left_out(routing):
    check(attach(family_model("llama"), routing))


def check(model):
    ids = token_ids(batch=2, tokens=12) % model.config.vocab_size
    assert gradient_norms(model, ids) == pytest.approx(by_backward(model, ids), rel=1e-4)


def test_the_model_is_left_as_it_was():
    model = tiny_model("static").requires_grad_(False)
    kept = model.model.layers[1].mlp.requires_grad_(True).down_proj.weight
    kept.grad = torch.ones_like(kept)
    before = [weight.requires_grad for weight in model.parameters()]
    gradient_norms(model, token_ids())
    assert [weight.requires_grad for weight in model.parameters()] == before
    assert [weight is kept for weight in model.parameters() if weight.grad is not None] == [True]
    assert kept.grad.eq(1).all()


def test_what_has_no_gradient_is_said():
    model = tiny_model("none")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = float("inf")
    with pytest.raises(LookupError, match=r"NaN or infinity in the gradient of layer"):
        gradient_norms(model, token_ids())
    model.to("meta")
    with pytest.raises(LookupError, match="quantized or offloaded"):
        gradient_norms(model, token_ids())
