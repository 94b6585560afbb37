"""Routers for layers of a model that was trained without them, and the history that they read.

A router starts as the identity: at attach time a model computes what it did.
"""

import threading

import torch
from torch import Tensor, nn

from limelm.routing.reference import mix_heads


class ForwardHistory:
    """The keys and values of all layers so far, of one forward: "key" or "value" and a layer to `[G, N d]`."""

    def __init__(self) -> None:
        self.heads: dict[tuple[str, int], Tensor] = {}


class AttachedRouter(nn.Module):
    """LIMe KV in a trained model: `K~_h = K_h + sum_j sum_h' W[h, j G + h'] K_{j,h'}`, V likewise.

    W is R minus the identity of the layer's own block (`limelm.routing.routers.KeyValueRouter`), and starts at zero.

    Args:
        layer_idx: i; layer 0 has nothing to choose from, and no parameters.
        sources: the layers that it reads, its own the last.
        heads: G.
        share_kv: one W for keys and values; else one for each.
    """

    def __init__(self, layer_idx: int, sources: tuple[int, ...], heads: int, share_kv: bool):
        super().__init__()
        self.layer_idx, self.sources, self.heads, self.share_kv = layer_idx, sources, heads, share_kv
        if layer_idx > 0:
            self.weight = nn.Parameter(torch.zeros(1 if share_kv else 2, heads, len(sources) * heads))

    def forward(self, which: str, own: Tensor, history: ForwardHistory) -> Tensor:
        """Route this layer's keys or values, and leave them for the later layers.

        Args:
            which: "key" or "value".
            own: `[..., G, d]`, before any norm and position embedding.

        Returns:
            The routed ones, `[..., G, d]`.
        """
        history.heads[which, self.layer_idx] = own.movedim(-2, 0).flatten(1)
        if self.layer_idx == 0:
            return own
        weight = self.weight[0 if self.share_kv or which == "key" else 1].to(own.dtype)
        sources = [history.heads[which, layer].to(own.device) for layer in self.sources]
        mixed = mix_heads(sources, weight)
        return own + mixed.unflatten(1, (*own.shape[:-2], own.shape[-1])).movedim(0, -2)


class Reading(threading.local):
    """The router and the history that the attention now running in this thread has; projections find them here."""

    router: AttachedRouter | None = None
    history: ForwardHistory | None = None
