"""How alike representations are: neighboring tokens within a layer, and layers among each other."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from limelm.analysis.activations import Activations
from limelm.analysis.running_mean import Mean
from limelm.records import Records

CKA_TOKENS = 256  # of a batch: one kernel matrix per layer of this size is in memory


def neighbor_cosine(states: Tensor) -> Tensor:
    """Mean cosine similarity of neighboring tokens, `[..., T, D]` to `[...]`; zero states count as similarity 0."""
    unit = normalize(states.double(), dim=-1)
    return (unit[..., 1:, :] * unit[..., :-1, :]).sum(dim=-1).mean(dim=-1)


def any_pair_cosine(states: Tensor) -> Tensor:
    """Mean cosine similarity of all pairs of different tokens, `[..., T, D]` to `[...]` (Ethayarajh 2019)."""
    unit = normalize(states.double(), dim=-1)
    tokens = unit.shape[-2]
    own = unit.square().sum(dim=(-2, -1))
    return (unit.sum(dim=-2).square().sum(dim=-1) - own) / (tokens * (tokens - 1))


def cka(X: Tensor, Y: Tensor) -> float:
    """Linear centered kernel alignment of two sets of features, unbiased (Kornblith et al. 2019; Nguyen et al. 2021).

    Args:
        X: `[n, D]`; Y: `[n, E]`, of the same n tokens, n > 3.

    Returns:
        1 for features that are equal up to rotation and scale, about 0 (also below) for independent ones.

    Raises:
        ValueError: for fewer than 4 tokens, or sets of different length.
    """
    if len(X) != len(Y) or len(X) < 4:
        raise ValueError(f"CKA needs the same 4 tokens or more on both sides, not {len(X)} and {len(Y)}")
    return float(_normalized(_hsic([X, Y]))[0, 1])


class NeighborCosine:
    """Cosine similarity of neighboring tokens, and of any two tokens, in every representation."""

    def __init__(self) -> None:
        self._neighbors: dict[int, Mean] = {}
        self._any_pair: dict[int, Mean] = {}

    def update(self, seen: Activations) -> None:
        """Take in a batch."""
        for index, states in enumerate(seen.hidden):
            self._neighbors.setdefault(index, Mean()).add(neighbor_cosine(states))
            self._any_pair.setdefault(index, Mean()).add(any_pair_cosine(states))

    def records(self, model: str) -> dict[str, Records]:
        """`cosine`: `layer`, `neighbors` with its `standard_error` over sequences, and `any_pair`."""
        rows = [
            {
                "model": model,
                "layer": index,
                "neighbors": mean.value,
                "standard_error": mean.standard_error,
                "any_pair": self._any_pair[index].value,
            }
            for index, mean in self._neighbors.items()
        ]
        return {"cosine": rows}


class LayerAlignment:
    """CKA between all representations of a model, from the unbiased HSIC of each batch, averaged over batches."""

    def __init__(self) -> None:
        self._hsic: Tensor | float = 0.0

    def update(self, seen: Activations) -> None:
        """Add a batch; at most CKA_TOKENS of its tokens, evenly spaced, are used."""
        tokens = seen.input_ids.numel()
        chosen = torch.linspace(0, tokens - 1, min(tokens, CKA_TOKENS)).round().long()
        self._hsic = self._hsic + _hsic([states.flatten(0, 1)[chosen] for states in seen.hidden])

    def records(self, model: str) -> dict[str, Records]:
        """`cka`: `layer`, `other` and `cka`, for every pair of representations."""
        assert isinstance(self._hsic, Tensor)
        alignment = _normalized(self._hsic).tolist()
        rows = [
            {"model": model, "layer": layer, "other": other, "cka": value}
            for layer, row in enumerate(alignment)
            for other, value in enumerate(row)
        ]
        return {"cka": rows}


def _hsic(features: list[Tensor]) -> Tensor:
    """Unbiased HSIC of all pairs with linear kernels (Song et al. 2012, equation 5), float64 `[sets, sets]`."""
    n = len(features[0])
    centered = [X.double() - X.double().mean(dim=0) for X in features]  # changes nothing but the rounding
    kernels = torch.stack([(X @ X.T).fill_diagonal_(0) for X in centered])
    flat, rows = kernels.flatten(1), kernels.sum(dim=-1)
    totals = rows.sum(dim=-1)
    traces = flat @ flat.T
    return (traces + totals[:, None] * totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T) / (n * (n - 3))


def _normalized(hsic: Tensor) -> Tensor:
    own = hsic.diagonal().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    return hsic / (own[:, None] * own)
