"""The mixes of models with another connection over depth, in numbers that were calculated beforehand.

There is one token with four channels. The float64 loops and the library have the same numbers to show.
"""

import pytest
import torch
from torch import Tensor, nn

from limelm.models.attention_residuals import DepthAttention
from limelm.models.deep_cross_attention import GatedSum
from limelm.models.delta_attention_residuals import DeltaAttention
from limelm.models.dense_former import DepthWeightedAverage
from limelm.models.mudd_former import MultiwayDynamicDense
from tests.models.entries import attention_residuals, deep_cross_attention, dense_former, mudd_former


def doubles(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


#: sin(1 + 4 j + c) of source j and channel c, each source as the library takes it, [B, T, D].
SOURCES = [torch.sin(1 + 4 * j + torch.arange(4, dtype=torch.float64)).view(1, 1, 4) for j in range(3)]
ROWS = [source[0] for source in SOURCES]  # as the float64 loops take them


def assert_golden(actual: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual.detach().flatten(), doubles(expected), atol=6e-7, rtol=0)


@torch.no_grad()
def filled(module: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    """The module in float64 with these values as its parameters."""
    module = module.double()
    for name, parameter in module.named_parameters():
        parameter.copy_(values[name])
    return module


AVERAGE = [1.072585, -0.019519, -1.093677, -1.162314]


def test_dense_formers_average_in_numbers():
    a = doubles([0.5, -0.25, 1])
    assert_golden(dense_former.depth_weighted_average(ROWS, a), AVERAGE)
    assert_golden(filled(DepthWeightedAverage(3), {"weight": a})(*SOURCES), AVERAGE)


DEPTH_ATTENTION = {
    1: ([[0.189613, 0.631753, 0.178634]], [-0.372631, -0.101287, 0.263180, 0.385681]),
    2: (
        [[0.284090, 0.308495, 0.407416], [0.211634, 0.649340, 0.139027]],
        [0.111134, -0.049519, 0.317448, 0.407667],
    ),
}


@pytest.mark.parametrize("num_heads", DEPTH_ATTENTION)
def test_attention_residuals_in_numbers(num_heads):
    query, gain = doubles([0.1, -0.2, 0.3, 0.4]), torch.ones(4, dtype=torch.float64)
    alpha, h = DEPTH_ATTENTION[num_heads]
    naive_alpha = attention_residuals.depth_attention_weights(ROWS, query, gain, eps=0, num_heads=num_heads)
    assert_golden(naive_alpha, [weight for head in alpha for weight in head])
    assert_golden(attention_residuals.depth_attention(ROWS, naive_alpha), h)
    for places in (DepthAttention(4, 0.0, num_heads), *([DeltaAttention(4, 0.0)] if num_heads == 1 else [])):
        filled(places, {"query": query, "norm.weight": gain})
        assert_golden(places.weights(*SOURCES), [weight for head in alpha for weight in head])
        assert_golden(places(*SOURCES), h)


def test_attention_residuals_with_a_temperature_and_a_scale():
    """Twice the query at twice the temperature is the same; the scale is the number of sources."""
    query, gain = doubles([0.2, -0.4, 0.6, 0.8]), torch.ones(4, dtype=torch.float64)
    place = DepthAttention(4, 0.0, softmax_temperature=2.0, scale_by_sources=True)
    filled(place, {"query": query, "norm.weight": gain})
    assert_golden(place(*SOURCES) / 3, DEPTH_ATTENTION[1][1])


MUDD_WEIGHTS = [-0.013690, -0.021613, 0.990334]
MUDD_QUERY = [0.417341, -0.545172, -1.006456, -0.542409]
MUDD_RESIDUAL = [0.403865, -0.553946, -1.002462, -0.529318]


def test_mudd_formers_mixes_in_numbers():
    W1 = 0.1 * torch.cos(1 + 8 * torch.arange(4.0, dtype=torch.float64)[:, None] + torch.arange(8))
    W2 = 0.1 * torch.sin(1 + 12 * torch.arange(8.0, dtype=torch.float64)[:, None] + torch.arange(12))
    a = doubles([[0, 0, 1]] * 4)
    w = mudd_former.mudd_weights(ROWS[-1], W1, W2, a, eps=1e-6)
    assert_golden(w[0, 0], MUDD_WEIGHTS)
    assert_golden(mudd_former.mudd_mix(ROWS, w, 0), MUDD_QUERY)
    assert_golden(mudd_former.mudd_mix(ROWS, w, 3), MUDD_RESIDUAL)

    module = MultiwayDynamicDense(4, num_sources=3, num_ways=4, expansion=1, eps=1e-6, pre_post_norm=False)
    module.hidden, module.output = nn.Linear(4, 8, bias=False), nn.Linear(8, 12, bias=False)
    filled(module, {"hidden.weight": W1.T, "output.weight": W2.T, "bias": a})
    assert_golden(module.weights(SOURCES[-1])[0, 0, 0], MUDD_WEIGHTS)
    query, _, _, residual = module(SOURCES[-1], *SOURCES)
    assert_golden(query, MUDD_QUERY)
    assert_golden(residual, MUDD_RESIDUAL)


GATES = [0.492457, 0, 0.192669]
GATED_SUM = [0.779838, -0.569835, -1.395605, -0.938262]


def test_deep_cross_attentions_sum_in_numbers():
    b, w = doubles([0.5, 1, 2])[:, None].expand(3, 4), doubles([0.3, -0.1, 0.2, -0.4])
    gates = deep_cross_attention.source_gates(ROWS, w)
    assert_golden(gates, GATES)
    assert_golden(deep_cross_attention.gated_sum(ROWS, b, gates), GATED_SUM)
    module = filled(GatedSum(3, 4), {"bias": b, "gate": w})
    assert_golden(torch.cat(module.gates(*SOURCES), dim=-1), GATES)
    assert_golden(module(*SOURCES), GATED_SUM)
