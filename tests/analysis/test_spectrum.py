import math

import numpy as np
import pytest
import torch

from limelm.analysis import Activations, effective_rank, gram_spectrum, matrix_entropy
from limelm.analysis.spectrum import FeatureStatistics, Spectra

ALPHAS = [0.5, 0.99, 1, 1.01, 2, 3]


def reference_entropy(states: np.ndarray, alpha: float) -> float:
    """From singular values instead of a Gram matrix."""
    squares = np.linalg.svd(states.astype(np.float64), compute_uv=False) ** 2
    p = squares / squares.sum()
    p = p[p > 1e-14]
    return float(-(p * np.log(p)).sum() if alpha == 1 else np.log((p**alpha).sum()) / (1 - alpha))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("width", [8, 20])
def test_orthogonal_rows_have_the_largest_entropy_and_one_repeated_row_none(alpha, width):
    rows = torch.linalg.qr(torch.randn(width, width))[0][:8]
    assert float(matrix_entropy(3 * rows, alpha)) == pytest.approx(math.log(8), abs=1e-5)
    assert float(matrix_entropy(torch.randn(1, width).expand(8, width), alpha)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
def test_both_sides_of_the_gram_matrix_equal_the_singular_values(alpha, shape):
    states = torch.randn(3, *shape)
    expected = [reference_entropy(sequence.numpy(), alpha) for sequence in states]
    assert matrix_entropy(states, alpha).tolist() == pytest.approx(expected, abs=1e-9)
    assert gram_spectrum(states).shape == (3, min(shape))


def test_alpha_one_is_the_limit_from_both_sides():
    states = torch.randn(6, 9)
    at, below, above = (float(matrix_entropy(states, alpha)) for alpha in (1, 1 - 1e-6, 1 + 1e-6))
    assert below == pytest.approx(at, abs=1e-5) and above == pytest.approx(at, abs=1e-5) and below > at > above


@pytest.mark.parametrize("alpha", [1e3, 1e6, 1e300])
def test_a_large_alpha_gives_the_entropy_of_the_largest_share(alpha):
    states = torch.randn(6, 9, dtype=torch.float64)
    eigenvalues = np.linalg.svd(states.numpy(), compute_uv=False) ** 2
    expected = -np.log(eigenvalues.max() / eigenvalues.sum()) * alpha / (alpha - 1)
    assert float(matrix_entropy(states, alpha)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("alpha", [1 - 2e-16, 1 + 3e-16, 1 + 1e-12])
def test_an_alpha_next_to_one_is_no_noise(alpha):
    states = torch.randn(6, 9)
    assert float(matrix_entropy(states, alpha)) == pytest.approx(float(matrix_entropy(states, 1.0)), abs=1e-6)


def test_entropy_does_not_change_with_scale_and_rotation_and_falls_with_alpha():
    states = torch.randn(6, 9)
    turned = 7 * states @ torch.linalg.qr(torch.randn(9, 9))[0]
    assert float(matrix_entropy(turned)) == pytest.approx(float(matrix_entropy(states)), abs=1e-5)
    entropies = [float(matrix_entropy(states, alpha)) for alpha in ALPHAS]
    assert entropies == sorted(entropies, reverse=True)


def test_effective_rank_by_hand():
    states = torch.diag(torch.tensor([3.0, 1.0, 0.0]))
    shares = np.array([0.75, 0.25])
    assert float(effective_rank(states)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert float(effective_rank(torch.eye(5))) == pytest.approx(5)


@pytest.mark.parametrize(
    ("states", "alpha", "message"),
    [
        (torch.zeros(3, 3), 0.5, "all zero"),
        (torch.full((3, 3), math.nan), 0.5, "not finite"),
        (torch.eye(3), 0, "alpha=0 must be a positive number"),
        (torch.eye(3), math.inf, "alpha=inf"),
    ],
)
def test_what_has_no_entropy_is_refused(states, alpha, message):
    with pytest.raises(ValueError, match=message):
        matrix_entropy(states, alpha)


def seen(hidden: torch.Tensor) -> Activations:
    return Activations(torch.zeros(hidden.shape[:2], dtype=torch.long), hidden=[hidden])


def test_states_are_standardized_over_the_whole_sample_batch_by_batch():
    scales = torch.tensor([1.0, 10, 0.1, 5, 1, 1])
    sample = torch.randn(5, 7, 6) * scales + torch.arange(6.0)
    sample[..., 5] = 2.5  # a feature that never changes
    statistics = FeatureStatistics()
    for batch in sample.split([2, 2, 1]):
        statistics.update(seen(batch))
    spectra = Spectra(statistics, 0.5)
    for batch in sample.split([1, 4]):
        spectra.update(seen(batch))
    flat = sample.double().numpy().reshape(-1, 6)[:, :5]
    standardized = ((sample.double().numpy()[..., :5] - flat.mean(0)) / flat.std(0)).reshape(5, 7, 5)
    entropies = np.array([reference_entropy(sequence, 0.5) for sequence in standardized])
    records = spectra.records("m")
    (row,) = records["entropy"]
    assert row["entropy"] == pytest.approx(entropies.mean(), abs=1e-8)
    assert row["standard_error"] == pytest.approx(entropies.std(ddof=1) / 5**0.5, abs=1e-8)
    assert (row["model"], row["states"], row["layer"], row["sequences"]) == ("m", "hidden states", 0, 5)
    assert row["ceiling"] == pytest.approx(math.log(6))
    assert records["effective_rank"][0]["sequences"] == 5
