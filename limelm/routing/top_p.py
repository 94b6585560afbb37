"""Top-p pruning of static routing weights (LIMe, section 5.4 and Table 5)."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from limelm.routing.source_matrix import runs

SPARSE_FROM = 0.85  # share of the weights that must be pruned for a sparse product to win; docs/performance.md


def top_p_mask(weights: Tensor, top_p: float) -> Tensor:
    """Which routing weights survive: the largest ones, up to and including the one at which their sum reaches `top_p`.

    Args:
        weights: routing weights that sum to 1 over the last dimension, `[..., n]`.
        top_p: the mass to keep, in (0, 1].

    Returns:
        A boolean mask of `weights`' shape; at least one entry of each row is kept.
    """
    if top_p == 1:  # no softmax weight is zero, whatever its rounded sums say
        return torch.ones_like(weights, dtype=torch.bool)
    descending, order = weights.detach().double().sort(dim=-1, descending=True)
    mass_before = descending.cumsum(dim=-1) - descending  # 0 for the first, which is always kept
    return torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, mass_before < top_p)


def prune(weights: Tensor, mask: Tensor) -> Tensor:
    """`weights` `[..., n]`, zero where `mask` is False, the rest summing to 1 again."""
    kept = weights * mask
    return kept / kept.sum(dim=-1, keepdim=True)


class Pruning:
    """What is left to do at inference when routing weights are pruned for good.

    Sources that no head keeps are not read. Of the rest, a mix over few of the sources runs as a sparse product, which
    multiplies kept weights only; where most are kept, one dense product is faster than skipping.
    """

    def __init__(self, kept: Sequence[Sequence[int]], num_sources: int):
        self.sources = sorted({source for row in kept for source in row})
        self.shape = (len(kept), num_sources)
        self.row_starts = [0]
        for row in kept:
            self.row_starts.append(self.row_starts[-1] + len(row))
        self.columns = [source for row in kept for source in row]
        self.entries = [head * num_sources + source for head, row in enumerate(kept) for source in row]
        with warnings.catch_warnings():  # PyTorch announces once that CSR tensors are in beta
            warnings.simplefilter("ignore")
            torch.sparse_csr_tensor([0, 0], [], [], (1, 1))
        self._indices: dict[torch.device, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def apply(self, sources: Sequence[Tensor], weights: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """Of `sources` (one row each, in one block or several) what is read, and the weights `[G, n']` of that.

        The weights are sparse (CSR) where that is faster.
        """
        row_starts, columns, entries, union = self._indices_on(weights.device)
        if self._is_sparse(sources[0]):  # its product does not touch the rows that no head keeps
            values = weights.flatten()[entries].to(sources[0].dtype)
            return sources, torch.sparse_csr_tensor(row_starts, columns, values, self.shape, check_invariants=False)
        if len(sources) == 1:
            read = [sources[0][slot : slot + last - first] for first, last, slot in runs(self.sources)]
        else:
            rows = [row for block in sources for row in block.split(1)]
            read = [rows[index] for index in self.sources]
        return read, weights[:, union]

    def _is_sparse(self, source: Tensor) -> bool:
        if torch.compiler.is_compiling() or (source.device.type == "cpu" and source.dtype.itemsize < 4):
            return False  # no such product there
        return len(self.entries) <= (1 - SPARSE_FROM) * self.shape[0] * self.shape[1]

    def _indices_on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if device not in self._indices:
            lists = (self.row_starts, self.columns, self.entries, self.sources)
            self._indices[device] = tuple(torch.tensor(values, device=device) for values in lists)  # type: ignore
        return self._indices[device]
