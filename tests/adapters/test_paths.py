"""The ways in which attached routers compute, beside each other: the layer's own product spared or not, gradients in
one buffer or by autograd's graph; each has to give the same.
"""

import pytest
import torch
from torch.func import functional_call, grad
from torch.utils._python_dispatch import TorchDispatchMode

from limelm import attach, set_trainable
from limelm.optimization import checkpoint_activations
from limelm.routing.ops.source_matrix import Cuts, assume_cuts
from tests.families import ATTACHABLE, family_model, router_parameters, tokens, train_routers

routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
gated = pytest.mark.parametrize("routing", ["static", "dynamic"])
OPTIONS = {
    "all": {},
    "separate": {"share_kv": False},
    "bounded": {"routing_sources": {"first": 1, "last": 1}},
    "bounded, separate": {"share_kv": False, "routing_sources": {"first": 1, "last": 2}},
}


def trained(routing: str, family: str = "llama", **options):
    return train_routers(attach(family_model(family), routing, **options))


def gates(model) -> list[torch.nn.Parameter]:
    return [parameter for name, parameter in router_parameters(model).items() if name.endswith("gate")]


def gradients(model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(tokens(), labels=tokens(), use_cache=False).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def gradients_by_formulas(model) -> dict[str, torch.Tensor]:
    """By torch.func, which follows the formulas, and with the layer's own product beside them."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}

    def loss(weights):
        return functional_call(model, weights, (tokens(),), {"labels": tokens(), "use_cache": False}).loss

    return grad(loss)(weights)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() != set()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", ATTACHABLE)
@routings
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradients_in_one_buffer_are_those_of_the_formulas(family, routing, options):
    model = trained(routing, family, **options)
    assert_same(gradients(model), gradients_by_formulas(model))


@routings
@pytest.mark.parametrize("trains", ["routers", "kv"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_where_only_later_layers_need_them(routing, trains, options, recompute):
    """The first layers' representations need none; layers that run again begin with what they began with."""
    model = trained(routing, **options).train()
    set_trainable(model, trains)
    expected = gradients_by_formulas(model)
    if recompute:
        checkpoint_activations(model)
    assert_same(gradients(model), expected)
    assert_same(gradients(model), expected)


class Largest(TorchDispatchMode):
    """Counts storages of at least so many entries in which results lie."""

    def __init__(self, entries: int):
        super().__init__()
        self.entries, self.count, self.seen = entries, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().nbytes() >= self.entries * 4:
            storage = result.untyped_storage()
            self.count += storage._cdata not in self.seen
            self.seen[storage._cdata] = storage  # keeps it, so that no address is used twice
        return result


@routings
@pytest.mark.parametrize("layers", [8, 12])
def test_the_gradients_of_all_sources_share_one_buffer(routing, layers):
    """However many read them: one for representations, or one for keys and one for values. The first two need none."""
    model = train_routers(attach(family_model("llama", num_hidden_layers=layers, intermediate_size=4), routing))
    set_trainable(model)
    each = 2 * 16 * 2 * 8 if routing == "kv" else 2 * 16 * 32
    with Largest((layers - 2) * each) as largest, assume_cuts(Cuts(chunk_bytes=4 * each, in_blocks=True)):
        loss = model(tokens(2, 16), labels=tokens(2, 16), use_cache=False).loss
        forward = largest.count
        loss.backward()
    assert (forward, largest.count - forward) == ((2, 2) if routing == "kv" else (1, 1))


def rows_projected(model, call) -> list[int]:
    """How many tokens k_proj and v_proj of the layers are given, as they reach the product itself."""
    seen: list[int] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            for place, argument in enumerate(args):
                if isinstance(argument, torch.Tensor) and argument.data_ptr() in weights and func in PRODUCTS:
                    seen.append(args[1 - place if func is not torch.ops.aten.addmm.default else 1].shape[0])
            return func(*args, **(kwargs or {}))

    projections = [getattr(layer.self_attn, name) for layer in model.model.layers for name in ("k_proj", "v_proj")]
    weights = {projection.weight.data_ptr() for projection in projections}
    with Seen():
        call()
    return seen


PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


@gated
@pytest.mark.parametrize("has_gradients", [False, True])
def test_behind_an_open_gate_the_layers_own_product_is_spared(routing, has_gradients):
    model = trained(routing)
    with torch.set_grad_enabled(has_gradients):
        assert rows_projected(model, lambda: model(tokens(2, 11), use_cache=False)) == [22] * 2 + [0] * 4
        for gate in gates(model):
            gate.data.zero_()
        assert rows_projected(model, lambda: model(tokens(2, 11), use_cache=False)) == [22] * 6


@gated
@torch.no_grad()
def test_a_hook_of_others_sees_what_the_projection_makes(routing):
    """As a layer's own product is made for it, and nothing else changes."""
    model = trained(routing)
    wanted, seen = model(tokens()).logits, []
    projection = model.model.layers[2].self_attn.v_proj
    handle = projection.register_forward_hook(lambda module, arguments, output: seen.append((arguments, output)))
    handle_of_input = model.model.layers[1].self_attn.k_proj.register_forward_pre_hook(
        lambda module, arguments: seen.append((arguments, None))
    )
    torch.testing.assert_close(model(tokens()).logits, wanted, atol=1e-6, rtol=1e-5)
    assert [arguments[0].shape for arguments, _ in seen] == [(2, 11, 32)] * 2
    handle.remove()
    handle_of_input.remove()
    assert torch.equal(model(tokens()).logits, wanted)


def copied(gate, value):
    with torch.no_grad():
        gate.fill_(value)


def copied_behind_the_version_counter(gate, value):
    gate.data.fill_(value)


def written_through_numpy(gate, value):
    gate.detach().numpy()[:] = value


@gated
@pytest.mark.parametrize("change", [copied, copied_behind_the_version_counter, written_through_numpy])
@torch.no_grad()
def test_gates_are_followed_whatever_changes_them(routing, change):
    model, base = trained(routing), family_model("llama")
    opened = model(tokens()).logits
    before = [gate.clone() for gate in gates(model)]
    for gate in gates(model):
        change(gate, 0.0)
    assert torch.equal(model(tokens()).logits, base(tokens()).logits)
    for gate, values in zip(gates(model), before, strict=True):
        change(gate, values.numpy() if change is written_through_numpy else 0.5)
        gate.data.copy_(values)
    assert torch.equal(model(tokens()).logits, opened)
    one = gates(model)[0]
    change(one, 0.0)
    assert not torch.equal(model(tokens()).logits, opened)


@gated
@torch.no_grad()
def test_gates_of_a_functional_call_are_its_own(routing):
    model = trained(routing)
    opened = model(tokens()).logits
    closed = {name: torch.zeros_like(value) for name, value in model.named_parameters() if name.endswith("gate")}
    found = functional_call(model, closed, (tokens(),)).logits
    assert torch.equal(found, family_model("llama")(tokens()).logits)
    assert torch.equal(model(tokens()).logits, opened)


@routings
def test_the_gradient_of_a_gradient_is_refused_and_torch_func_follows_it(routing):
    model = trained(routing)
    model.set_attn_implementation("eager")
    name, parameter = next(iter(router_parameters(model).items()))
    loss = model(tokens(), labels=tokens(), use_cache=False).loss
    with pytest.raises(RuntimeError, match=r"the transforms of torch\.func .* can"):
        torch.autograd.grad(loss, parameter, create_graph=True)

    def total(value):
        return functional_call(model, {name: value}, (tokens(),), {"labels": tokens(), "use_cache": False}).loss

    second = grad(lambda value: grad(total)(value).sum())(parameter.detach())
    assert second.any()
