"""Retrieval weights of a model: what its routers retrieve, as they are now.

Layers and sources count from zero: layer r reads the representations 0 (the token embedding) to r (its own input). The
paper counts layers from one, so what it calls the layers after m, r > m, are all that read representation m: here
r >= m.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.routing import Router, routers_in


@dataclass(frozen=True)
class RetrievalWeights:
    """One model's retrieval weights.

    Attributes:
        model: its label.
        layers: for each routing layer r its weights `[G, r + 1]`; every row sums to 1. For static routing the softmax
            weights (pruned ones zero), for dynamic routing their mean over tokens (the "prior"), for kv routing each
            layer's share of a head's absolute weights, as their signs are arbitrary. Of attached routers it is the
            share, in absolute terms, in what a head reads, its own way past the router included.
        sources: for each routing layer the representations that it reads; its weights on others are zero.
        top_p: the mass that pruning keeps; None where nothing is pruned.
        head_mixes: of kv routing R of each layer, `[G, r + 1, G]` (head, source, its head), signed, zero where it does
            not read; empty for the others.
        sets: WEIGHT_SETS where keys and values have routers of their own; then the first half of every layer's rows, 2G
            in all, is for keys, the second for values. Else empty.
    """

    model: str
    layers: dict[int, np.ndarray]
    sources: dict[int, tuple[int, ...]]
    top_p: float | None = None
    head_mixes: dict[int, np.ndarray] = field(default_factory=dict)
    sets: tuple[str, ...] = ()

    @property
    def num_heads(self) -> int:
        """G, the key/value heads; 2G where keys and values have routers of their own."""
        return len(next(iter(self.layers.values())))

    @property
    def num_layers(self) -> int:
        """L of the decoder, layer 0, which does not route, included."""
        return max(self.layers) + 1

    def split(self) -> "list[RetrievalWeights]":
        """Split into weights for keys and for values, labeled so, where they differ; else return these alone."""
        if not self.sets:
            return [self]
        parts = []
        for place, name in enumerate(self.sets):
            layers, mixes = (
                {layer: np.split(rows, len(self.sets))[place] for layer, rows in arrays.items()}
                for arrays in (self.layers, self.head_mixes)
            )
            parts.append(RetrievalWeights(set_label(self.model, name), layers, self.sources, self.top_p, mixes))
        return parts


def set_label(model: str, name: str) -> str:
    """The label of a model where only its routers for keys, or for values, are meant."""
    return f"{model} ({name})"


def retrieval_weights(model: PreTrainedModel, label: str, sequences: Iterable[Tensor] = ()) -> RetrievalWeights | None:
    """Collect the retrieval weights of a model, a native one or one with attached routers.

    The model, in training or evaluation mode, is left as it was, and no random number is drawn. Where its parameters
    are sharded, every rank calls this, with the same sequences, and gets the same weights.

    Args:
        sequences: batches of token ids `[B, T]`, over which a dynamic router's weights are averaged.

    Returns:
        None for a model that does not route.

    Raises:
        ValueError: for a dynamic router without `sequences`.
    """
    routers = routers_of(model)
    if not routers:
        return None
    dynamic = {layer: router for layer, router in routers.items() if router.depends_on_tokens}
    return weights_of_routers(routers, label, _priors_of(model, dynamic, sequences) if dynamic else None)


def routers_of(model: nn.Module) -> dict[int, Router]:
    """The routers that have a choice, by layer; none for a model that does not route."""
    return {router.spec.layer_idx: router for router in routers_in(model) if router.has_choice}


def weights_of_routers(
    routers: dict[int, Router], label: str, priors: dict[int, np.ndarray] | None = None
) -> RetrievalWeights:
    """The retrieval weights of a model's routers.

    Args:
        priors: of routers that depend on tokens `[G, r + 1]` per layer, the mean of their weights (`TokenPriors`).
    """
    layers, mixes = dict(priors or {}), {}
    for layer, router in routers.items() if priors is None else ():
        weights = _over_all(router.effective_weights(), router)
        if weights.ndim == 3:  # heads are mixed with others: by the sources' heads too
            mixes[layer], weights = weights, np.abs(weights).sum(axis=-1)
        weights = np.abs(weights)
        layers[layer] = weights / weights.sum(axis=-1, keepdims=True)
    first = next(iter(routers.values()))
    sources = {layer: router.spec.source_ids for layer, router in routers.items()}
    return RetrievalWeights(label, layers, sources, first.spec.top_p, mixes, first.weight_sets)


class TokenPriors:
    """The mean over tokens of the weights of routers that depend on them."""

    def __init__(self) -> None:
        self._totals: dict[int, Tensor] = {}
        self._tokens: dict[int, int] = {}

    def add(self, layer: int, A: Tensor) -> None:
        """Take in one layer's A `[B, T, G, r + 1]` of a batch."""
        total = A.double().sum(dim=(0, 1)).cpu()
        self._totals[layer] = self._totals[layer] + total if layer in self._totals else total
        self._tokens[layer] = self._tokens.get(layer, 0) + A.shape[0] * A.shape[1]

    def means(self) -> dict[int, np.ndarray]:
        """The means of each layer, `[G, r + 1]`."""
        return {layer: (total / self._tokens[layer]).numpy() for layer, total in self._totals.items()}


def weights_of_call(router: Router, call: tuple) -> Tensor:
    """The weights `[B, T, G, r + 1]` of one call of a router that depends on tokens, zero where it does not read.

    Args:
        call: what the router's forward was called with, as its hooks see it.
    """
    A = router.effective_weights(call).abs()
    return _spread(A / A.sum(dim=-1, keepdim=True), router, dim=-1)


def _over_all(weights: Tensor, router: Router) -> np.ndarray:
    """Weights `[G, n, ...]` of the n sources that the layer reads, as `[G, r + 1, ...]`, zero at the others."""
    return _spread(weights.detach().double(), router, dim=1).cpu().numpy()


def _spread(weights: Tensor, router: Router, dim: int) -> Tensor:
    """Put the n entries along a dimension to the r + 1 places of the representations, zero at those not read."""
    count = router.spec.layer_idx + 1
    if weights.shape[dim] == count:
        return weights
    shape = list(weights.shape)
    shape[dim] = count
    places = torch.tensor(router.spec.source_ids, device=weights.device)
    return weights.new_zeros(shape).index_copy(dim, places, weights)


@torch.no_grad()
def _priors_of(
    model: PreTrainedModel, routers: dict[int, Router], sequences: Iterable[Tensor]
) -> dict[int, np.ndarray]:
    priors = TokenPriors()

    def observe(layer: int):
        def hook(router, inputs):
            # An attached router is called for keys and for values: twice with the same weights, as a mean forgives.
            priors.add(layer, weights_of_call(router, inputs))

        return hook

    hooks = [router.register_forward_pre_hook(observe(layer)) for layer, router in routers.items()]
    is_hugging_face = isinstance(model, PreTrainedModel)  # else a model of somebody's own, which takes token ids
    no_logits = {"logits_to_keep": 1} if is_hugging_face and model.get_output_embeddings() is not None else {}
    try:
        # A compiled model would pass over hooks that are new to it.
        with _without_dropout(model), torch.compiler.set_stance("force_eager"):
            for batch in sequences:
                if is_hugging_face:
                    model(input_ids=batch.to(model.device), use_cache=False, **no_logits)
                else:
                    model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not priors.means():
        raise ValueError("dynamic routing depends on the tokens: give sequences to average over")
    return priors.means()


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and each back in its own afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
