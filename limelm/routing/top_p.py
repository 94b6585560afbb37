"""Top-p pruning of static routing weights (LIMe, section 5.4 and Table 5)."""

import torch
from torch import Tensor


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
