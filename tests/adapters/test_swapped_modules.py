"""Modules that others put in the place of a model's own, with hooks carried over or without: routed exactly once."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from limelm import attach, detach
from limelm.adapters import attachment_of
from limelm.adapters.hooks import is_ours
from tests.families import ATTACHABLE, family_model, tokens, train_routers

routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])


def trained(routing, family="llama"):
    return train_routers(attach(family_model(family), routing))


def our_hooks(model) -> int:
    return sum(
        is_ours(hook)
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


class Doubled(nn.Linear):
    """Twice what a linear layer makes: routing is linear in it, so that routing it twice shows."""

    @classmethod
    def of(cls, linear: nn.Linear) -> "Doubled":
        made = cls(linear.in_features, linear.out_features, linear.bias is not None)
        made.weight, made.bias = linear.weight, linear.bias
        return made

    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Wrapper(nn.Module):
    """A module around a copy of the old one, which has its hooks."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return 2 * self.inner(inputs)


def replace(model, made) -> None:
    for layer in model.model.layers:
        for name in ("k_proj", "v_proj"):
            setattr(layer.self_attn, name, made(getattr(layer.self_attn, name)))


def with_hooks(linear):
    made = Doubled.of(linear)
    for hook in linear._forward_hooks.values():
        made.register_forward_hook(hook)
    return made


def with_the_same_dictionary(linear):
    made = Doubled.of(linear)
    made._forward_hooks = linear._forward_hooks
    return made


SWAPS = {
    "without hooks": Doubled.of,
    "with hooks": with_hooks,
    "with the same dictionary": with_the_same_dictionary,
    "around the old one": Wrapper,
    "around a copy": lambda linear: Wrapper(copy.deepcopy(linear)),
}


@pytest.mark.parametrize("swap", SWAPS)
@routings
def test_a_swapped_projection_is_routed_once(routing, swap):
    """As the same weights, doubled before there was any hook."""
    expected = family_model("llama")
    replace(expected, Doubled.of)
    wanted = train_routers(attach(expected, routing))(tokens()).logits
    model = trained(routing)
    replace(model, SWAPS[swap])
    for _ in range(2):
        torch.testing.assert_close(model(tokens()).logits, wanted, atol=1e-5, rtol=1e-5)
    detach(model)
    assert our_hooks(model) == 0


@routings
def test_dynamic_quantization_routes_once(routing):
    plain, model = family_model("llama"), trained(routing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        quantize = torch.ao.quantization.quantize_dynamic
        quantized = quantize(model, {nn.Linear}, dtype=torch.qint8)
        rounding = (
            (quantize(plain, {nn.Linear}, dtype=torch.qint8)(tokens()).logits - plain(tokens()).logits).abs().max()
        )
    difference = (quantized(tokens()).logits - model(tokens()).logits).abs().max()
    assert 0 < difference < 3 * rounding
    assert len(quantized.model.layers[1].self_attn.k_proj._forward_hooks) == 1


@pytest.mark.parametrize("family", ATTACHABLE)
@routings
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_its_own(family, routing, copied):
    model = trained(routing, family)
    other = copied(model)
    wanted = model(tokens()).logits
    assert torch.equal(other(tokens()).logits, wanted)
    detach(other)
    assert our_hooks(other) == 0
    assert torch.equal(model(tokens()).logits, wanted)
    assert torch.equal(other(tokens()).logits, family_model(family)(tokens()).logits)


def test_layers_that_were_moved_are_refused_and_cut_off_ones_are_not():
    model = trained("kv")
    wanted = trained("kv")
    wanted.config.num_hidden_layers = 2
    model.model.layers = model.model.layers[:2]
    torch.testing.assert_close(model(tokens(), use_cache=False).logits, wanted(tokens(), use_cache=False).logits)
    for shortened in (model, wanted):
        assert our_hooks(detach(shortened)) == 0 and attachment_of(shortened) is None
    for damage in (
        lambda model: model.model.layers.pop(1),
        lambda model: model.model.layers.insert(0, copy.deepcopy(model.model.layers[0])),
        lambda model: setattr(model.model.layers[1], "self_attn", copy.deepcopy(model.model.layers[1].self_attn)),
    ):
        model = trained("kv")
        damage(model)
        with pytest.raises(RuntimeError, match="moved or replaced since routers were attached; detach before"):
            model(tokens(), use_cache=False)
