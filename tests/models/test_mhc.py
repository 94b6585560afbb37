"""Models with manifold-constrained Hyper-Connections: where they start, and that the mix of streams comes to learn."""

from itertools import combinations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limelm import HyperConnectionConfig, HyperConnectionForCausalLM
from tests.models.variants import TINY, tiny_model, token_ids


def fresh(**changes) -> HyperConnectionForCausalLM:
    torch.manual_seed(3)
    return HyperConnectionForCausalLM(HyperConnectionConfig(**TINY, connection="mhc", **changes))


@pytest.mark.parametrize("expansion_rate", [1, 2, 4])
@torch.no_grad()
def test_it_starts_as_llama(expansion_rate):
    """From the same weights, up to the 1e-6 in the coefficients; of one stream up to the epsilon of the norms."""
    model = fresh(expansion_rate=expansion_rate, rms_norm_eps=1e-12)
    llama = LlamaForCausalLM(LlamaConfig(**TINY, rms_norm_eps=1e-12))
    given = {name: value for name, value in model.state_dict().items() if "connection" not in name}
    llama.load_state_dict(given)  # Llama's names, all of them
    expected = llama(token_ids()).logits
    torch.testing.assert_close(model(token_ids()).logits, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("expansion_rate", [2, 4])
def test_all_streams_part_and_every_mix_comes_to_learn(expansion_rate):
    """While streams are equal, nothing that mixes them matters; neither Phi = 0 nor an even mix may keep two so."""
    model = fresh(expansion_rate=expansion_rate, initializer_range=0.2).train()
    ids, connections = token_ids(4), []
    for layer in model.model.layers:
        connections += [layer.attn_connection, layer.mlp_connection]
    nearest: list[float] = []  # of all pairs of streams between two sites, relative to the streams' size

    def look(connection, args):
        (streams,) = args
        size = streams.norm(dim=-1).mean()
        distances = [(a - b).norm(dim=-1).mean() / size for a, b in combinations(streams.unbind(-2), 2)]
        nearest.append(min(distances).item())

    for connection in [*connections[1:], model.model.output_connection]:
        connection.register_forward_pre_hook(look)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(4):
        nearest.clear()
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    assert min(nearest) > 1e-5
    for connection in connections[1:]:  # the first one's streams are equal
        gradient = connection.bias.grad[2 * expansion_rate :]
        assert gradient.count_nonzero() == gradient.numel()
        assert gradient.abs().max() > 1e-8
        assert connection.weight.grad[2 * expansion_rate :].abs().max() > 1e-10


@torch.no_grad()
def test_a_permutation_in_place_of_the_mix_changes_the_output():
    model = tiny_model("mhc_gqa")
    n = model.config.expansion_rate
    before = model(token_ids()).logits
    permutation = torch.eye(n)[:, torch.arange(1, n + 1) % n]
    for name in ("attn_connection", "mlp_connection"):
        changed = tiny_model("mhc_gqa")
        getattr(changed.model.layers[1], name).bias[2 * n :] = 30 * permutation.flatten()
        assert (changed(token_ids()).logits - before).abs().max() > 1e-2
