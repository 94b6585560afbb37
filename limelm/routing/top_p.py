"""Top-p pruning of static routing weights (LIMe, section 5.4 and Table 5)."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limelm.routing.ops.rms_norm import is_transformed
from limelm.routing.ops.source_matrix import runs

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


def can_decide(weight: Tensor) -> bool:
    """Whether the values of a parameter can decide what is run: not where they are unknown, or a graph is recorded."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed():
        return False
    if type(weight) not in (Tensor, nn.Parameter) or weight.is_meta:
        return False
    return not (weight.is_cuda and torch.cuda.is_current_stream_capturing())


class Pruning:
    """Static routing weights that are pruned, and what is left to do with them at inference.

    Sources that no head keeps are not read. Of the rest, a mix over few of the sources runs as a sparse product, which
    multiplies kept weights only; where most are kept, one dense product is faster than skipping.

    Args:
        logits: of the weights, `[S G, n]`; their values are kept.
        top_p: the mass to keep.

    Attributes:
        kept: for each head the sources that are read.
        sources: those that any head reads.
    """

    def __init__(self, logits: Tensor, top_p: float):
        self.logits = logits.detach().clone()
        A = self.logits.float().softmax(dim=-1)
        mask = top_p_mask(A, top_p)
        self.weights = prune(A, mask)
        self.kept = [row.nonzero().flatten().tolist() for row in mask]
        self.sources = sorted({source for row in self.kept for source in row})
        self.is_sparse = sum(map(len, self.kept)) <= (1 - SPARSE_FROM) * mask.numel()
        self._of_sources = self.weights[:, self.sources]
        self._sparse: dict[torch.dtype, Tensor] = {}

    def is_of(self, logits: Tensor) -> bool:
        """Whether `logits` are what this was made from."""
        own = self.logits
        return own.device == logits.device and own.dtype == logits.dtype and torch.equal(own, logits)

    def operands(self, sources: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
        """Pick those of `sources` (one row each, in one block or several) that are read, and their weights `[G, n']`.

        The weights are sparse (CSR) where that is faster.
        """
        if self.is_sparse and (sources[0].device.type != "cpu" or sources[0].dtype.itemsize >= 4):  # else there is none
            return sources, self._sparse_weights(sources[0].dtype)  # does not touch the rows that no head keeps
        if len(sources) == 1:
            read = [sources[0][source : source + last - first] for first, last, source in runs(self.sources)]
        else:
            rows = [row for block in sources for row in block.split(1)]
            read = [rows[index] for index in self.sources]
        return read, self._of_sources

    def _sparse_weights(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._sparse:
            with warnings.catch_warnings():  # PyTorch announces once that CSR tensors are in beta
                warnings.simplefilter("ignore")
                self._sparse[dtype] = self.weights.to(dtype).to_sparse_csr()
        return self._sparse[dtype]
