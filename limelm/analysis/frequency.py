"""Random routes whose tokens are as frequent as a route's own: a control for coherence that frequency alone explains.

In a young model the frequent tokens have alike embeddings. A route that leads to ten of them is then more coherent than
random routes, which lead to ten tokens of any frequency, and still says nothing. So the direction along which
embeddings change with frequency is taken out of them, and random routes are made to choose as the route did: as many
tokens of each frequency, those that lie farthest along their direction.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

SMALLEST_BIN = 32  # tokens; the most frequent ones, among which a random route can still choose


def frequency_bins(counts: Tensor) -> list[Tensor]:
    """Group tokens of similar frequency: by rank, in bins that double in size.

    Args:
        counts: how often each token of the vocabulary stands in the sample, `[vocabulary]`.

    Returns:
        Token ids of each bin, the most frequent first; those that the sample does not hold are the last bin. No bin has
        fewer than SMALLEST_BIN tokens, where the vocabulary has as many.
    """
    order, seen = counts.argsort(descending=True, stable=True), int((counts > 0).sum())
    ends, size = [0], SMALLEST_BIN
    while ends[-1] < seen:
        ends.append(min(seen, ends[-1] + size))
        size *= 2
    if seen < len(order):
        ends.append(len(order))
    bins: list[Tensor] = []
    for tokens in (order[start:end] for start, end in pairwise(ends)):
        if bins and min(len(tokens), len(bins[-1])) < SMALLEST_BIN:
            bins[-1] = torch.cat((bins[-1], tokens))
        else:
            bins.append(tokens)
    return bins


def without_frequency(embedding: Tensor, counts: Tensor) -> Tensor:
    """Embeddings minus their mean and minus the direction along which they change with token frequency.

    Args:
        embedding: `[vocabulary, D]`.
        counts: how often each token stands in the sample, `[vocabulary]`.

    Returns:
        `[vocabulary, D]`; nothing in it is linear in log(1 + count).
    """
    centered = embedding - embedding.mean(dim=0)
    if (counts == counts[0]).all():
        return centered
    frequency = counts.to(embedding).log1p()
    direction = normalize((frequency - frequency.mean()) @ centered, dim=-1)
    return centered - (centered @ direction)[:, None] * direction


class MatchedRoutes:
    """The tokens that random routes choose when the frequency of each choice is prescribed.

    Args:
        logits: of random routes on the vocabulary, `[vocabulary, routes]`.
        bins: of `frequency_bins`.
        k: tokens of a route, at most.
    """

    def __init__(self, logits: Tensor, bins: list[Tensor], k: int):
        self._bin_of = torch.empty(len(logits), dtype=torch.long)
        self._best = []  # of each bin the tokens of every random route, the largest logit first: [routes, at most k]
        for number, tokens in enumerate(bins):
            self._bin_of[tokens] = number
            chosen = logits[tokens.to(logits.device)].T.topk(min(k, len(tokens)), dim=-1).indices.cpu()
            self._best.append(tokens[chosen])

    def profile(self, tokens: Tensor) -> tuple[int, ...]:
        """The number of a route's tokens `[k]` in each bin."""
        return tuple(self._bin_of[tokens.cpu()].bincount(minlength=len(self._best)).tolist())

    def tokens(self, profile: tuple[int, ...]) -> Tensor:
        """The random routes' choices of this profile, `[routes, k]`."""
        return torch.cat([best[:, :count] for best, count in zip(self._best, profile, strict=True)], dim=1)
