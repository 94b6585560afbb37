"""The models compile as one graph."""

import pytest
import torch

from tests.models.variants import assert_same_gradients, gradients, tiny_model, token_ids


@pytest.mark.parametrize("variant", ["none", "static_top_p", "hc_dynamic"])
@torch.no_grad()
def test_one_graph_in_evaluation(variant):
    model = tiny_model(variant, num_hidden_layers=2)
    expected = model(token_ids(), use_cache=False).logits
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(token_ids(), use_cache=False).logits, expected)


@pytest.mark.parametrize("variant", ["static_gqa", "static_top_p", "dynamic", "kv_gqa", "hc_dynamic"])
def test_one_graph_in_training(variant):
    model = tiny_model(variant, num_hidden_layers=2).train()
    model(token_ids(), labels=token_ids(), use_cache=False).loss.backward()
    expected = gradients(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(token_ids(), labels=token_ids(), use_cache=False).loss.backward()
    assert_same_gradients(gradients(model), expected, tolerance=2e-5)
