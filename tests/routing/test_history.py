"""What a forward keeps and computes per layer: both grow linearly with the depth."""

from collections import Counter

import pytest
import torch

from limelm.planning.peak_memory import saved_for_backward
from limelm.routing import ROUTERS
from limelm.routing.ops import rms_norm
from limelm.routing.ops.chunked import ComputeBackend
from tests.models.variants import LIME_VARIANTS, all_variants, tiny_config, tiny_model, token_ids

BATCH, TOKENS, HIDDEN = 2, 16, 64
SHAPE = {"hidden_size": HIDDEN, "intermediate_size": 64}


def growth_beyond_linear(values: list[float]) -> float:
    """For values at L = 4, 8, 16: how far the last is above the line through the first two."""
    return values[2] - (values[1] + 2 * (values[1] - values[0]))


#: With sources whose gradients travel with the carrier.
FAST = [name for name in LIME_VARIANTS if ROUTERS[tiny_config(name).routing].has_fast_path]


@all_variants
def test_saved_activations_grow_linearly_with_depth(variant):
    """One stack of all sources per layer would cost 48 more representations at L = 16 than linear growth allows."""
    depths = (4, 8, 16)
    models = [tiny_model(variant, num_hidden_layers=L, **SHAPE).train() for L in depths]
    saved = [saved_for_backward(model, BATCH, TOKENS) for model in models]
    assert saved[0] < saved[1] < saved[2]
    representation = BATCH * TOKENS * HIDDEN * 4
    # Dynamic routing saves its weights [B, T, G, i + 1] a few times; they are far smaller than a representation.
    assert growth_beyond_linear(saved) < 16 * representation


@pytest.mark.parametrize("variant", FAST)
def test_a_layer_is_given_plain_tensors_and_returns_one_source(variant):
    """Sharded training rebuilds container arguments, so a layer can only read and return."""
    model = tiny_model(variant).train()
    seen = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    model(token_ids())
    routing = model.config.routing
    for i, ((_, normalized, carrier, *sources), (_, _, source)) in enumerate(seen):
        assert all(isinstance(value, torch.Tensor) and not value.requires_grad for value in sources)
        assert (normalized is None) == (routing in ("none", "kv"))
        if routing == "none":
            assert carrier is None and not sources and source is None
        elif routing == "kv":
            G = model.config.num_key_value_heads
            (block,) = sources
            assert len(block) == (i + 1) * G and len(carrier) == 4 * G
            assert all(torch.equal(block[j * G : (j + 1) * G], seen[j][1][2]) for j in range(i + 1))
        else:
            assert sum(map(len, sources)) == (0 if i == 0 else i + 1) and len(carrier) == 4 and source is None
            rows = [row for block in sources for row in block]
            assert all(torch.equal(row, seen[j][0][1].flatten()) for j, row in enumerate(rows))


@pytest.mark.parametrize("variant", ["static", "dynamic", "kv"])
def test_the_carrier_has_no_memory(variant):
    model = tiny_model(variant).train()
    carriers = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _, inputs, output: carriers.append(output[1]))
    model(token_ids())
    assert all(carrier.untyped_storage().nbytes() == carrier.element_size() for carrier in carriers)


@pytest.mark.parametrize("variant", ["static", "dynamic", "kv"])
@torch.no_grad()
def test_sources_are_slices_of_one_buffer(variant):
    model = tiny_model(variant)
    storages = set()
    for layer in model.model.layers[1:]:
        layer.register_forward_pre_hook(
            lambda _, inputs: storages.update(source.untyped_storage().data_ptr() for source in inputs[3:])
        )
    model(token_ids())
    assert len(storages) == 1


@pytest.mark.parametrize("variant", LIME_VARIANTS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_representation_is_normalized_once(variant, training, monkeypatch):
    calls = Counter()
    original = rms_norm.rms_normalize_forward

    def counted(*arguments):
        calls["rms_normalize"] += 1
        return original(*arguments)

    monkeypatch.setattr(rms_norm, "rms_normalize_forward", counted)
    monkeypatch.setattr(ComputeBackend, "rms_normalize_forward", staticmethod(counted))
    monkeypatch.setattr(torch, "rms_norm", lambda x, shape, eps: counted(x, eps)[0])
    model = tiny_model(variant, num_hidden_layers=6).train(training)
    model(token_ids())
    assert calls["rms_normalize"] == 6 * 2 + 1
