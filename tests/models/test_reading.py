"""What the other depth-connected models read, and that their further options equal the float64 loops.

That all variants do so is in `test_naive_equivalence.py`, what they promise beside it in `test_invariants.py`.
"""

import itertools

import pytest
import torch

from limelm.analysis.retrieval import retrieval_weights
from tests.models.naive_copy import naive_copy
from tests.models.variants import OTHERS, assert_same_gradients, gradients, tiny_model, token_ids


@pytest.mark.parametrize(("period", "dilation"), itertools.product([1, 2, 5], [1, 2, 4]))
@torch.no_grad()
def test_dense_former_averages_every_kth_output_after_every_pth_layer(period, dilation):
    model = tiny_model("dense_former", num_hidden_layers=6, period=period, dilation=dilation)
    outputs, averaged = [], {}
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: outputs.append(output))
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda module, args, output: outputs.append(output[1]))
        if hasattr(layer, "connection"):
            layer.connection.register_forward_hook(lambda module, args, output, i=i: averaged.update({i + 1: args}))
    model(token_ids())
    assert list(averaged) == [number for number in range(1, 7) if number % period == 0]
    for number, sources in averaged.items():
        expected = [outputs[j] for j in range(number + 1) if j % dilation == number % dilation]
        assert len(sources) == len(expected)
        assert all(map(torch.equal, sources, expected))


@pytest.mark.parametrize("block_size", [1, 2, 3, 8])
@pytest.mark.parametrize("variant", ["attention_residuals", "delta_attention_residuals"])
@torch.no_grad()
def test_a_sublayer_reads_the_embedding_and_what_blocks_have_added(variant, block_size):
    """Attention Residuals the block in progress too; that of Delta Attention Residuals waits until it is finished."""
    model = tiny_model(variant, block_size=block_size)
    counts = []
    for layer in model.model.layers:
        for connection in (layer.attn_connection, layer.mlp_connection):
            connection.register_forward_hook(lambda module, sources, output: counts.append(len(sources)))
    model(token_ids())
    in_progress = variant == "attention_residuals"
    assert counts == [1 + s // block_size + (in_progress and s % block_size > 0) for s in range(8)]


OPTIONS = [
    ("dense_former", {"period": 2, "dilation": 1}),
    ("attention_residuals", {"block_size": 1, "num_heads": 1, "softmax_temperature": 3.0}),
    ("attention_residuals", {"block_size": 2, "scale_by_sources": True}),
    ("delta_attention_residuals", {"block_size": 3, "gated": True}),
    ("delta_attention_residuals", {"block_size": 2}),
    ("deep_cross_attention", {"num_recent": 2, "num_hidden_layers": 5}),
    ("deep_cross_attention", {"num_recent": 2, "num_hidden_layers": 5, "sum_rest": False}),
]


@pytest.mark.parametrize(("variant", "changes"), OPTIONS, ids=str)
def test_further_options_equal_the_float64_version(variant, changes):
    model = tiny_model(variant, **changes).train()
    naive_model = naive_copy(model)
    logits, expected = model(token_ids(1, 5)).logits, naive_model.logits(token_ids(1, 5))
    torch.testing.assert_close(logits.double(), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    logits.square().sum().backward()
    expected.square().sum().backward()
    # Of one source there is nothing to choose, and a norm does not see a factor: rounding is what is left of both.
    first = "model.layers.0.attn_connection"
    named = {name: weight.grad for name, weight in naive_model.weights.items() if not name.startswith(first)}
    assert_same_gradients({name: found for name, found in gradients(model).items() if name in named}, named, 1e-4)


@pytest.mark.parametrize("variant", OTHERS)
@torch.no_grad()
def test_an_early_exit_equals_the_float64_version(variant):
    """A MUDDFormer reads out the residual way, Deep Cross-Attention with the first rows of its last weights."""
    model = tiny_model(variant, num_hidden_layers=3)
    model.config.num_hidden_layers = 2
    logits, expected = model(token_ids(2, 5)).logits, naive_copy(model).logits(token_ids(2, 5))
    torch.testing.assert_close(logits.double(), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    weights = retrieval_weights(model, variant, [token_ids(2, 5)])
    assert weights is None or all(rows.shape[1] == place + 1 for place, rows in weights.layers.items())


@torch.no_grad()
def test_mudd_formers_early_exit_reads_a_hidden_state():
    decoder = tiny_model("mudd_former").model
    expected = decoder.norm(decoder(token_ids(), output_hidden_states=True).hidden_states[2])
    decoder.config.num_hidden_layers = 2
    torch.testing.assert_close(decoder(token_ids()).last_hidden_state, expected)


@torch.no_grad()
def test_what_delta_attention_residuals_read_adds_up_to_the_residual_stream():
    """The full form's sources are all that was ever added to the stream."""
    model = tiny_model("delta_attention_residuals")
    streams, sums = [], []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda module, args: streams.append(args[0]))
        layer.attn_connection.register_forward_hook(lambda module, sources, output: sums.append(sum(sources)))
    model(token_ids())
    assert len(streams) == 4
    for stream, total in zip(streams, sums, strict=True):
        torch.testing.assert_close(stream, total, atol=1e-5, rtol=1e-5)
