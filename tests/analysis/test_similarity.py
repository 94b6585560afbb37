from itertools import permutations

import numpy as np
import pytest
import torch

from limelm.analysis import Activations, any_pair_cosine, cka, neighbor_cosine
from limelm.analysis.running_mean import Mean
from limelm.analysis.similarity import LayerAlignment, NeighborCosine


def u_statistic(X, Y) -> float:
    """Unbiased HSIC as its definition has it: a mean over ordered quadruples of different tokens."""
    K, L = (X @ X.T).double().numpy(), (Y @ Y.T).double().numpy()
    terms = [K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in permutations(range(len(X)), 4)]
    return float(np.mean(terms))


def test_cka_is_that_of_the_u_statistic():
    X, Y = torch.randn(7, 3), torch.randn(7, 4)
    Y[:, 0] += X[:, 0]
    expected = u_statistic(X, Y) / (u_statistic(X, X) * u_statistic(Y, Y)) ** 0.5
    assert cka(X, Y) == pytest.approx(expected, abs=1e-6)


def test_cka_of_equal_features_is_one_and_of_independent_ones_about_zero():
    X = torch.randn(500, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    assert cka(X, X) == pytest.approx(1)
    assert cka(X, 3 * X @ rotation + 100) == pytest.approx(1, abs=1e-5)
    assert abs(cka(X, torch.randn(500, 300))) < 0.05  # a biased estimate would be far above


@pytest.mark.parametrize(("a", "b"), [(3, 3), (5, 6)])
def test_cka_needs_the_same_tokens(a, b):
    with pytest.raises(ValueError, match="the same 4 tokens or more"):
        cka(torch.randn(a, 2), torch.randn(b, 2))


def test_cosines_by_loops():
    states = torch.randn(2, 5, 3)
    for sequence, neighbors, pairs in zip(states, neighbor_cosine(states), any_pair_cosine(states), strict=True):
        cosine = torch.nn.functional.cosine_similarity
        every = [float(cosine(sequence[i], sequence[j], dim=0)) for i in range(5) for j in range(5) if i != j]
        close = [float(cosine(sequence[i], sequence[i + 1], dim=0)) for i in range(4)]
        assert float(neighbors) == pytest.approx(np.mean(close), abs=1e-6)
        assert float(pairs) == pytest.approx(np.mean(every), abs=1e-6)


def test_over_batches():
    hidden = [torch.randn(6, 20, 4) for _ in range(3)]
    hidden[2] = 2 * hidden[0]
    cosine, alignment = NeighborCosine(), LayerAlignment()
    for first in (0, 2, 4):
        seen = Activations(torch.zeros(2, 20, dtype=torch.long), hidden=[X[first : first + 2] for X in hidden])
        cosine.update(seen)
        alignment.update(seen)
    rows = cosine.records("m")["cosine"]
    assert [row["layer"] for row in rows] == [0, 1, 2]
    assert rows[1]["neighbors"] == pytest.approx(float(neighbor_cosine(hidden[1]).mean()), abs=1e-9)
    alignments = {(row["layer"], row["other"]): row["cka"] for row in alignment.records("m")["cka"]}
    assert len(alignments) == 9 and alignments[0, 2] == pytest.approx(1) and abs(alignments[0, 1]) < 0.3
    assert alignments[1, 0] == alignments[0, 1]


def test_running_mean_and_standard_error():
    numbers = torch.randn(50, dtype=torch.float64) + 1e6
    mean = Mean()
    for part in numbers.split([1, 20, 29]):
        mean.add(part)
    assert mean.value == pytest.approx(float(numbers.mean()), abs=1e-9)
    assert mean.standard_error == pytest.approx(float(numbers.std()) / 50**0.5, rel=1e-6)
    single = Mean()
    single.add(torch.tensor(2.0))
    assert single.value == 2 and np.isnan(single.standard_error)
