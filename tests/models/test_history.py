"""What a forward keeps and computes per layer: both grow linearly with the depth."""

from collections import Counter

import pytest
import torch

from limelm.models.blocks import RMSNorm
from tests.models.variants import LIME_VARIANTS, all_variants, tiny_model, token_ids

BATCH, TOKENS, HIDDEN = 2, 16, 64
SHAPE = {"hidden_size": HIDDEN, "intermediate_size": 64}


def saved_activation_bytes(model) -> int:
    """Unique storage that a training forward holds for its backward, parameters aside."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(token_ids(BATCH, TOKENS), labels=token_ids(BATCH, TOKENS), use_cache=False).loss
    sizes = [tensor.untyped_storage().nbytes() for pointer, tensor in saved.items() if pointer not in parameters]
    assert loss.requires_grad
    return sum(sizes)


def growth_beyond_linear(values: list[float]) -> float:
    """For values at L = 4, 8, 16: how far the last is above the line through the first two."""
    return values[2] - (values[1] + 2 * (values[1] - values[0]))


@all_variants
def test_saved_activations_grow_linearly_with_depth(variant):
    """One stack of all sources per layer would cost 48 more representations at L = 16 than linear growth allows."""
    depths = (4, 8, 16)
    saved = [saved_activation_bytes(tiny_model(variant, num_hidden_layers=L, **SHAPE).train()) for L in depths]
    assert saved[0] < saved[1] < saved[2]
    representation = BATCH * TOKENS * HIDDEN * 4
    # Dynamic routing saves its weights [B, T, G, i + 1] a few times; they are far smaller than a representation.
    assert growth_beyond_linear(saved) < 16 * representation


@pytest.mark.parametrize("variant", LIME_VARIANTS)
def test_a_layer_returns_one_source_and_leaves_the_history_alone(variant):
    """Sharded training rebuilds container arguments, so a layer can only read and return."""
    model = tiny_model(variant)
    seen = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    model(token_ids())
    for i, (inputs, _) in enumerate(seen):
        history = inputs[1:]
        assert len(history) == (0 if variant.startswith("none") else i)
        for j, source in enumerate(history):
            assert source is seen[j][1][1]  # the very tensor that layer j returned


@pytest.mark.parametrize("variant", LIME_VARIANTS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_representation_is_normalised_once(variant, training, monkeypatch):
    calls = Counter()
    normalize = RMSNorm.normalize

    def counted(norm, hidden_states):
        calls["normalize"] += 1
        return normalize(norm, hidden_states)

    monkeypatch.setattr(RMSNorm, "normalize", counted)
    model = tiny_model(variant, num_hidden_layers=6).train(training)
    model(token_ids())
    assert calls["normalize"] == 6 * 2 + 1
