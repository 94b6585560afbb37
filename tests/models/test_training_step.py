"""One step of training: recomputation, accumulation, interleaved micro-batches, reduced precision."""

import copy

import pytest
import torch

from limelm.routing.hyper_connection import HyperConnection, plain_norm
from tests.models.variants import (
    MAIN_VARIANTS,
    all_variants,
    assert_same_gradients,
    gradients,
    main_variants,
    tiny_model,
    token_ids,
)


def recompute_activations(model, use_reentrant: bool) -> None:
    """Gradient checkpointing by either of its names in transformers."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


def step(model, ids, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch."""
    loss = model(ids, labels=ids, **inputs).loss
    loss.backward()
    return loss.detach(), gradients(model)


@all_variants
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["plain", "reentrant"])
def test_gradient_checkpointing_changes_nothing(variant, use_reentrant):
    model = tiny_model(variant).double().train()  # sources' gradients may come in another order
    loss, expected = step(model, token_ids())
    layer_calls = []
    model.model.layers[2].mlp.register_forward_pre_hook(lambda *_: layer_calls.append(1))
    recompute_activations(model, use_reentrant)
    checkpointed_loss, actual = step(model, token_ids())
    assert len(layer_calls) == 2  # it did recompute
    assert torch.equal(loss, checkpointed_loss)
    assert_same_gradients(actual, expected, tolerance=1e-6)


@all_variants
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_interleaved_micro_batches(variant, checkpointing):
    """Forward a, forward b, backward a, backward b: no state is shared between forwards."""
    model = tiny_model(variant).train()
    if checkpointing:
        recompute_activations(model, use_reentrant=False)
    a, b = token_ids(seed=1), token_ids(seed=2, batch=3, tokens=6)
    (_, gradients_a), (_, gradients_b) = step(model, a), step(model, b)

    loss_a, loss_b = (model(ids, labels=ids).loss for ids in (a, b))
    loss_a.backward()
    assert_same_gradients(gradients(model), gradients_a, tolerance=1e-6)
    loss_b.backward()
    assert_same_gradients(gradients(model), gradients_b, tolerance=1e-6)


@all_variants
def test_accumulated_micro_batches_equal_the_big_batch(variant):
    model = tiny_model(variant).train()
    ids = token_ids(batch=4)
    _, expected = step(model, ids)
    num_items = ids[:, 1:].numel()
    for micro_batch in ids.split(2):
        model(micro_batch, labels=micro_batch, num_items_in_batch=num_items).loss.backward()
    assert_same_gradients(gradients(model), expected, tolerance=2e-5)


@main_variants
def test_a_second_backward_through_the_same_graph(variant):
    model = tiny_model(variant).train()
    loss = model(token_ids(), labels=token_ids()).loss
    loss.backward(retain_graph=True)
    first = gradients(model)
    loss.backward()
    assert_same_gradients(gradients(model), first, tolerance=1e-6)


@main_variants
def test_an_optimizer_step_lowers_the_loss(variant):
    model = tiny_model(variant).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(token_ids(), labels=token_ids()).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.float() - expected).norm() / expected.norm()).item()


@all_variants
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_is_finite_and_near_float32(variant, how):
    model = tiny_model(variant).train()
    expected_logits = model(token_ids()).logits.detach()
    _, expected = step(model, token_ids())
    half = copy.deepcopy(model)
    if how == "weights":
        half = half.bfloat16().train()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        logits = half(token_ids()).logits
        loss = half(token_ids(), labels=token_ids()).loss
    assert logits.dtype == torch.bfloat16
    loss.backward()
    actual = gradients(half)
    for name, gradient in actual.items():
        assert gradient.dtype == (torch.bfloat16 if how == "weights" else torch.float32), name
        assert gradient.isfinite().all(), name
    assert relative_error(logits, expected_logits) < 0.05
    flat_actual, flat_expected = (torch.cat([g[name].flatten().float() for name in g]) for g in (actual, expected))
    assert relative_error(flat_actual, flat_expected) < 0.15


@torch.no_grad()
def test_under_autocast_hyper_connections_keep_their_streams_in_float32():
    connection = HyperConnection(16, 3, 0)
    connection.init_weights()
    connection.static_alpha.normal_()
    streams = torch.randn(2, 5, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        _, carried, _ = connection(streams)
    assert torch.equal(carried, connection(streams)[1])
    connection.dynamic_alpha.normal_()  # made from products in bfloat16, as the rest of the model is
    with torch.autocast("cpu", torch.bfloat16):
        _, carried, _ = connection(streams)
    assert carried.dtype == torch.float32 and relative_error(carried, connection(streams)[1]) < 0.02


def test_under_autocast_a_plain_norm_is_in_float32_on_every_device():
    """As CUDA's autocast does with a LayerNorm, and the CPU's does not."""
    states = torch.randn(2, 3, 32, dtype=torch.bfloat16)
    expected = torch.nn.functional.layer_norm(states.float(), (32,), eps=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain_norm(states), expected)  # also the dtype
    assert torch.equal(plain_norm(states), expected.bfloat16())


@pytest.mark.parametrize("variant", [name for name in MAIN_VARIANTS if name != "none"])
def test_frozen_parameters_stay_without_gradient(variant):
    """Training the routing alone must reach it through frozen layers."""
    model = tiny_model(variant).train()
    trained = [name for name, _ in model.named_parameters() if "router" in name or "connection" in name]
    _, expected = step(model, token_ids())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    model(token_ids(), labels=token_ids()).loss.backward()
    actual = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert_same_gradients(actual, {name: expected[name] for name in trained}, tolerance=1e-5)
