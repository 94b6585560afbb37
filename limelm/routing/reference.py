"""The depth mix in plain PyTorch: what every faster implementation has to equal.

Differentiable any number of times, one term of the sum after the other, so that nothing is stacked; but the mixed
inputs, G x D per token, are kept for the backward.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def depth_mix(sources: Sequence[Tensor], weights: Tensor, kept: Sequence[Sequence[int]] | None = None) -> Tensor:
    """Mix `n` representations over depth, one mix per head: `Z_h = sum_j A[h, j] X_j` (LIMe, section 3).

    Args:
        sources: `n` tensors `[B, T, D]`, the oldest first.
        weights: routing weights `A`, `[G, n]` for all tokens or `[B, T, G, n]` per token; `[n]` for a single mix.
        kept: for each head the sources that it reads, where the others' weights are zero (top-p at inference). A
            source that a head does not keep is neither read nor multiplied.

    Returns:
        `Z`, `[B, T, G, D]`; of a single mix `[B, T, D]`.

    Raises:
        ValueError: for other shapes.
    """
    shape = tuple(sources[0].shape) if sources else ()
    if len(shape) != 3 or any(source.shape != shape for source in sources):
        raise ValueError(
            f"sources must be tensors [B, T, D] of one shape, not {[tuple(each.shape) for each in sources]}"
        )
    if weights.ndim not in (1, 2, 4) or weights.shape[-1] != len(sources) or weights.shape[:-2] not in ((), shape[:2]):
        raise ValueError(
            f"weights {tuple(weights.shape)}: {len(sources)} sources of shape {shape} take [n], [G, n] or [B, T, G, n] "
            f"with n = {len(sources)}"
        )
    if weights.ndim == 1:
        return depth_mix(sources, weights[None]).squeeze(-2)
    if kept is not None:
        heads_terms = [[weights[h, j] * sources[j] for j in head_kept] for h, head_kept in enumerate(kept)]
        return torch.stack([functools.reduce(torch.add, terms) for terms in heads_terms], dim=-2)

    batch, tokens, hidden_size = sources[0].shape
    heads, n = weights.shape[-2:]
    # One rank-1 update [G, 1] @ [1, D] per token and source.
    columns = weights.expand(batch, tokens, heads, n).reshape(batch * tokens, heads, n, 1).unbind(dim=2)
    rows = [source.reshape(batch * tokens, 1, hidden_size) for source in sources]
    mixed = torch.bmm(columns[0], rows[0])
    for column, row in zip(columns[1:], rows[1:], strict=True):
        mixed = torch.baddbmm(mixed, column, row)
    return mixed.view(batch, tokens, heads, hidden_size)


def weighted_sum(sources: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Add `n` representations up, each times a weight: `sum_j w_j X_j`, in float32 at the least.

    Args:
        sources: `n` tensors of one shape.
        weights: `n` tensors that broadcast to it, each of at least one dimension.

    Returns:
        The sum in the dtype of the first source.
    """
    wide = [weight.to(torch.promote_types(weight.dtype, torch.float32)) for weight in weights]
    terms = (weight * source for weight, source in zip(wide, sources, strict=True))
    return functools.reduce(torch.add, terms).to(sources[0].dtype)


def weighted_mix(sources: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The weighted sum of `n` representations, by weights `[..., n]` in one tensor."""
    return weighted_sum(sources, weights.split(1, dim=-1))


def mix_heads(sources: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Mix the heads of `n` layers into new heads: `Y_h = sum_j sum_h' R[h, j G + h'] X_{j,h'}`.

    Args:
        sources: `n` tensors `[G, X]`, the oldest first; a row is one head of all tokens.
        weights: the signed matrix `R`, `[M, n G]`, for M new heads.

    Returns:
        `Y`, `[M, X]`.
    """
    blocks = weights.split(sources[0].shape[0], dim=1)
    mixed = blocks[0] @ sources[0]
    for block, source in zip(blocks[1:], sources[1:], strict=True):
        mixed = torch.addmm(mixed, block, source)
    return mixed


def mix_heads_by_token(sources: Sequence[Tensor], weights: Tensor) -> Tensor:
    """`mix_heads` where tokens come first.

    Args:
        sources: `n` tensors `[..., G, c]`, the oldest first.
        weights: R, `[M, n, G]`.

    Returns:
        `[..., M, c]`.
    """
    return functools.reduce(torch.add, (R_j @ source for R_j, source in zip(weights.unbind(1), sources, strict=True)))
