"""Matrix entropy and effective rank: over how many directions do the states of a sequence spread (Figures 5, 11)?

Both are functions of the eigenvalues of a sequence's Gram matrix K = Z Z^T, the states Z `[T, D]` being standardized
per feature over the whole sample first. The eigenvalues other than zero are those of Z^T Z too, so the smaller of the
two matrices is taken.
"""

import math

import torch
from torch import Tensor

from limelm.analysis.activations import Activations
from limelm.analysis.running_mean import Mean
from limelm.records import Record, Records

NEAR_ONE = 1e-9  # alphas so near to 1 are taken for it: the formula would divide rounding errors by nearly nothing
DEFAULT_ALPHA = 0.5  # the authors' default; the paper does not name it


def gram_spectrum(states: Tensor) -> Tensor:
    """The eigenvalues of Z Z^T over their sum, in float64.

    Args:
        states: Z `[..., T, D]`.

    Returns:
        `[..., min(T, D)]`, not negative, each row with sum 1.

    Raises:
        ValueError: for states that are all zero, or not finite.
    """
    Z = states.double()
    K = Z @ Z.mT if Z.shape[-2] <= Z.shape[-1] else Z.mT @ Z
    if not K.isfinite().all():
        raise ValueError("states are not finite")
    values = torch.linalg.eigvalsh(K).clamp(min=0)
    noise = values.amax(dim=-1, keepdim=True) * K.shape[-1] * torch.finfo(torch.float64).eps
    values = torch.where(values > noise, values, 0.0)
    total = values.sum(dim=-1, keepdim=True)
    if (total == 0).any():
        raise ValueError("states are all zero: their spectrum is not defined")
    return values / total


def matrix_entropy(states: Tensor, alpha: float = DEFAULT_ALPHA) -> Tensor:
    """Renyi entropy of the spectrum, `S_a = log(sum_i (lambda_i / tr K)^a) / (1 - a)`, in nats (section 5.3).

    Args:
        states: Z `[..., T, D]`, used as they are; for the paper's figures standardized per feature over the sample.
        alpha: a > 0; at 1 the von Neumann entropy, which is the limit.

    Returns:
        `[...]`, from 0 (one direction) to log min(T, D).

    Raises:
        ValueError: for an alpha that is not positive, or states that are all zero or not finite.
    """
    return renyi_entropy(gram_spectrum(states), alpha)


def renyi_entropy(spectrum: Tensor, alpha: float) -> Tensor:
    """Renyi entropy in nats of distributions `[..., n]`; at alpha = 1 Shannon's."""
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha={alpha} must be a positive number")
    if abs(alpha - 1) < NEAR_ONE:
        return -torch.xlogy(spectrum, spectrum).sum(dim=-1)
    # In logarithms: to a large power all eigenvalues would be zero.
    return (alpha * spectrum.clamp(min=0).log()).logsumexp(dim=-1) / (1 - alpha)


def effective_rank(states: Tensor) -> Tensor:
    """Effective rank: `exp` of the Shannon entropy of the singular values over their sum (Roy & Vetterli 2007).

    Args:
        states: Z `[..., T, D]`.

    Returns:
        `[...]`, from 1 to min(T, D).

    Raises:
        ValueError: for states that are all zero or not finite.
    """
    return _effective_rank(gram_spectrum(states))


def _effective_rank(spectrum: Tensor) -> Tensor:
    singular = spectrum.sqrt()
    return renyi_entropy(singular / singular.sum(dim=-1, keepdim=True), 1).exp()


class FeatureStatistics:
    """Mean and standard deviation of every feature over all tokens of the sample."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._tokens = 0

    def update(self, seen: Activations) -> None:
        """Take in a batch."""
        self._tokens += seen.input_ids.numel()
        for name, layers in seen.states().items():
            for index, states in enumerate(layers):
                flat = states.double().flatten(0, 1)
                sums = torch.stack((flat.sum(dim=0), flat.square().sum(dim=0)))
                place = (name, index)
                self._sums[place] = self._sums[place] + sums if place in self._sums else sums

    def records(self, model: str) -> dict[str, Records]:
        """No records: these statistics only serve other measures."""
        return {}

    def standardize(self, name: str, index: int, states: Tensor) -> Tensor:
        """Standardize per feature, `(x - mean) / deviation` in float64; a feature that never changes becomes zero."""
        mean, square = self._sums[name, index] / self._tokens
        variance = (square - mean.square()).clamp(min=0)
        constant = variance <= 1e-12 * square
        scale = torch.where(constant, 0.0, variance.clamp(min=torch.finfo(torch.float64).tiny).rsqrt())
        return (states.double() - mean) * scale


class Spectra:
    """Entropy and effective rank of every layer's standardized states, mean and standard error over sequences."""

    def __init__(self, statistics: FeatureStatistics, alpha: float):
        self._statistics, self.alpha = statistics, alpha
        self._entropy: dict[tuple[str, int], Mean] = {}
        self._rank: dict[tuple[str, int], Mean] = {}
        self._ceilings: dict[tuple[str, int], float] = {}

    def update(self, seen: Activations) -> None:
        """Take in a batch."""
        for name, layers in seen.states().items():
            for index, states in enumerate(layers):
                place = (name, index)
                spectrum = gram_spectrum(self._statistics.standardize(name, index, states))
                self._entropy.setdefault(place, Mean()).add(renyi_entropy(spectrum, self.alpha))
                self._rank.setdefault(place, Mean()).add(_effective_rank(spectrum))
                self._ceilings[place] = math.log(min(states.shape[1:]))

    def records(self, model: str) -> dict[str, Records]:
        """The records of `entropy` and `effective_rank`, by `states` and `layer`.

        Each has `standard_error` and `sequences`; those of entropy also `alpha`, and the largest possible as `ceiling`.
        """
        entropy: Records = []
        rank: Records = []
        for place, mean in self._entropy.items():
            where: Record = {"model": model, "states": place[0], "layer": place[1]}
            error = {"standard_error": mean.standard_error, "sequences": mean.count}
            limits = {"alpha": self.alpha, "ceiling": self._ceilings[place]}
            entropy.append({**where, "entropy": mean.value, **error, **limits})
            of_rank = self._rank[place]
            rank.append({**where, "effective_rank": of_rank.value, **error, "standard_error": of_rank.standard_error})
        return {"entropy": entropy, "effective_rank": rank}
