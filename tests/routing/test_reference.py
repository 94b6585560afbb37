"""The mixes over depth and the headwise projection against one-line einsums in float64."""

import pytest
import torch
from torch import nn

from limelm.routing import HeadwiseLinear, RoutingLinear, depth_mix, mix_heads, weighted_sum

B, T, G, D, E = 2, 5, 3, 8, 4


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("per_token", [False, True])
def test_mix_of_representations(n, per_token):
    sources = [double(B, T, D) for _ in range(n)]
    weights = double(B, T, G, n) if per_token else double(G, n)
    expected = torch.einsum("btgn,nbtd->btgd", weights.expand(B, T, G, n), torch.stack(sources))
    mixed = depth_mix(sources, weights)
    torch.testing.assert_close(mixed, expected)
    assert torch.autograd.gradcheck(lambda w, *s: depth_mix(s, w), (weights, *sources))


@pytest.mark.parametrize("kept", [[[0], [1, 2], [0, 1, 2]], [[2], [2], [2]]])
def test_mix_of_kept_representations(kept):
    sources = [double(B, T, D) for _ in range(3)]
    mask = torch.zeros(G, 3, dtype=torch.float64)
    for h, columns in enumerate(kept):
        mask[h, columns] = 1
    weights = (double(G, 3) * mask).detach()
    torch.testing.assert_close(depth_mix(sources, weights, kept), depth_mix(sources, weights))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_mix_of_heads(n):
    sources = [double(G, T * E) for _ in range(n)]
    weights = double(G, n * G)
    expected = torch.einsum("gnh,nhx->gx", weights.unflatten(1, (n, G)), torch.stack(sources))
    torch.testing.assert_close(mix_heads(sources, weights), expected)
    assert torch.autograd.gradcheck(lambda w, *s: mix_heads(s, w), (weights, *sources))


@pytest.mark.parametrize("mix", ["representations", "heads"])
def test_sources_are_not_written_to(mix):
    if mix == "representations":
        sources = [torch.randn(B, T, D) for _ in range(3)]
        run = lambda: depth_mix(sources, torch.randn(G, 3))  # noqa: E731
    else:
        sources = [torch.randn(G, T * E) for _ in range(3)]
        run = lambda: mix_heads(sources, torch.randn(G, 3 * G))  # noqa: E731
    before = [source.clone() for source in sources]
    run()
    assert all(torch.equal(*pair) for pair in zip(sources, before, strict=True))


@pytest.mark.parametrize("bias", [False, True])
def test_headwise_linear(bias):
    projection = HeadwiseLinear(D, G, E, bias=bias).double()
    assert {name: tuple(value.shape) for name, value in projection.named_parameters()} == {
        "weight": (G * E, D),
        **({"bias": (G * E,)} if bias else {}),
    }
    Z = double(B, T, G, D)
    for h in range(G):
        rows = slice(h * E, (h + 1) * E)
        expected = Z[:, :, h] @ projection.weight[rows].T + (projection.bias[rows] if bias else 0)
        torch.testing.assert_close(projection(Z)[:, :, h], expected)


def test_headwise_linear_is_linear_where_all_heads_read_the_same():
    projection = HeadwiseLinear(D, G, E, bias=True)
    x = torch.randn(B, T, D)
    shared = x.unsqueeze(2).expand(B, T, G, D)
    torch.testing.assert_close(projection(shared).flatten(2), nn.Linear.forward(projection, x))


@pytest.mark.parametrize("bias", [False, True])
def test_a_routing_linear_is_a_linear_layer_but_in_type(bias):
    """With the same random draws; what replaces all linear layers leaves it alone."""
    layers = []
    for kind in (RoutingLinear, nn.Linear):
        torch.manual_seed(0)
        layers.append(kind(D, E, bias=bias))
    own, linear = layers
    assert not isinstance(own, nn.Linear)
    assert list(own.state_dict()) == list(linear.state_dict())
    for actual, expected in zip(own.parameters(), linear.parameters(), strict=True):
        assert torch.equal(actual, expected)
    x = torch.randn(B, T, D)
    assert torch.equal(own(x), linear(x))
    own.init_weights(0.5)
    assert own.weight.std().item() == pytest.approx(0.5, rel=0.3)
    assert not bias or not own.bias.any()


@pytest.mark.parametrize("shape", [(1,), (B, T, 1), (B, T, D)])
def test_weighted_sum(shape):
    sources, weights = [double(B, T, D) for _ in range(4)], [double(*shape) for _ in range(4)]
    expected = torch.einsum("nbtd,nbtd->btd", torch.stack([w.expand(B, T, D) for w in weights]), torch.stack(sources))
    torch.testing.assert_close(weighted_sum(sources, weights), expected)
    assert torch.autograd.gradcheck(lambda *both: weighted_sum(both[:4], both[4:]), (*sources, *weights))
    with pytest.raises(ValueError):
        weighted_sum(sources, weights[:3])


def test_a_weighted_sum_adds_up_in_float32_and_is_as_wide_as_its_first_source():
    """In bfloat16, 1 + 1/256 is 1."""
    one, small = torch.ones(1, 1, D, dtype=torch.bfloat16), torch.full((1, 1, D), 2.0**-8, dtype=torch.bfloat16)
    weights = [torch.ones(1, dtype=torch.bfloat16)] * 5
    total = weighted_sum([one, *[small] * 4], weights)
    assert torch.equal(total, (one.float() + 4 * small.float()).bfloat16()) and not torch.equal(total, one)
    assert total.dtype == torch.bfloat16
    assert weighted_sum([one.float(), *[small] * 4], weights).dtype == torch.float32
