"""Retrieval weights of a model: what its routers, or its other connections over depth, retrieve, as they are now.

Layers and sources count from zero: layer r reads the representations 0 (the token embedding) to r (its own input). The
paper counts layers from one, so what it calls the layers after m, r > m, are all that read representation m: here
r >= m. Other connections have places like layers (`limelm.routing.reader`), the last of which is before the final norm.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.adapters.routers import LIME_ROUTERS, AttachedRouter
from limelm.routing import DepthReader, Router, readers_in, routers_in
from limelm.routing.reader import REPRESENTATIONS
from limelm.routing.value_routers import ValueRouter

#: Whose weights over depth they are: LIMe's routers, native or attached, or other connections.
ROUTERS, ATTACHED_ROUTERS, CONNECTIONS = "routers", "attached routers", "other connections"


@dataclass(frozen=True)
class RetrievalWeights:
    """One model's retrieval weights.

    Attributes:
        model: its label.
        layers: for each routing layer r its weights `[G, r + 1]`; every row sums to 1. For static routing the softmax
            weights (pruned ones zero), for dynamic routing their mean over tokens (the "prior"), for kv routing each
            layer's share of a head's absolute weights, as their signs are arbitrary. Of attached routers it is the
            share, in absolute terms, in what a head reads, its own way past the router included. Of other connections
            it is the share of absolute weight, and its mean over tokens where it depends on them; a row of zeros alone
            stays so.
        sources: for each routing layer the representations that it reads; its weights on others are zero.
        top_p: the mass that pruning keeps; None where nothing is pruned.
        head_mixes: of kv routing R of each layer, `[G, r + 1, G]` (head, source, its head), signed, zero where it does
            not read; empty for the others.
        sets_of: for each layer what parts of its rows, equally large, are for: WEIGHT_SETS where keys and values have
            routers of their own. Empty for a layer where all rows are for the same.
        readers: whose weights they are: ROUTERS, ATTACHED_ROUTERS or CONNECTIONS.
        depends_on_tokens: whether they are means over tokens.
        sources_are: see `DepthReader.sources_are`.
    """

    model: str
    layers: dict[int, np.ndarray]
    sources: dict[int, tuple[int, ...]]
    top_p: float | None = None
    head_mixes: dict[int, np.ndarray] = field(default_factory=dict)
    sets_of: dict[int, tuple[str, ...]] = field(default_factory=dict)
    readers: str = ROUTERS
    depends_on_tokens: bool = False
    sources_are: str = REPRESENTATIONS

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the sets of weights, of all layers; empty where there is one set for all."""
        return tuple(dict.fromkeys(name for sets in self.sets_of.values() for name in sets))

    @property
    def num_heads(self) -> int:
        """G, the key/value heads or other rows of a layer; of all sets together where there are several."""
        return len(next(iter(self.layers.values())))

    @property
    def num_layers(self) -> int:
        """L of the decoder, layer 0, which does not route, included; of other connections their places."""
        return max(self.layers) + 1

    def split(self) -> "list[RetrievalWeights]":
        """Split into weights for keys, for values and so on, labeled so, where they differ; else return these alone."""
        return [self._part(name) for name in self.sets] or [self]

    def _part(self, name: str) -> "RetrievalWeights":
        layers, mixes = (
            {layer: self._rows(layer, rows, name) for layer, rows in arrays.items() if name in self.sets_of[layer]}
            for arrays in (self.layers, self.head_mixes)
        )
        sources = {layer: self.sources[layer] for layer in layers}
        label = set_label(self.model, name)
        return replace(self, model=label, layers=layers, sources=sources, head_mixes=mixes, sets_of={})

    def _rows(self, layer: int, rows: np.ndarray, name: str) -> np.ndarray:
        sets = self.sets_of[layer]
        return np.split(rows, len(sets))[sets.index(name)]


def set_label(model: str, name: str) -> str:
    """The label of a model where only one set of its weights is meant, such as its routers for keys."""
    return f"{model} ({name})"


def retrieval_weights(model: PreTrainedModel, label: str, sequences: Iterable[Tensor] = ()) -> RetrievalWeights | None:
    """Collect the retrieval weights of a model: of its routers, native or attached, or of its other connection.

    The model, in training or evaluation mode, is left as it was, and no random number is drawn. Where its parameters
    are sharded, every rank calls this, with the same sequences, and gets the same weights.

    Args:
        sequences: batches of token ids `[B, T]`, over which weights that depend on tokens are averaged.

    Returns:
        None for a model that has no weights over depth.

    Raises:
        ValueError: for weights that depend on tokens without `sequences`.
    """
    readers = readers_of(model)
    if not readers:
        return None
    depends_on_tokens = any(reader.depends_on_tokens for reader in readers)
    return weights_of_readers(readers, label, _priors_of(model, readers, sequences) if depends_on_tokens else None)


def readers_of(model: nn.Module) -> list[DepthReader]:
    """All parts of a model that choose among what earlier places left, in order: its routers, or else its connections.

    Routers that are attached to a model with another connection are what is looked at.
    """
    routers: list[DepthReader] = list(routers_of(model).values())
    return routers or [reader for reader in readers_in(model) if reader.has_choice]


def routers_of(model: nn.Module) -> dict[int, Router]:
    """The routers that have a choice, by layer; none for a model that does not route."""
    return {router.spec.layer_idx: router for router in routers_in(model) if router.has_choice}


def weights_of_readers(
    readers: list[DepthReader], label: str, priors: dict[int, np.ndarray] | None = None
) -> RetrievalWeights:
    """The retrieval weights of a model's readers.

    Args:
        priors: of readers that depend on tokens `[G, r + 1]` per place, the mean of their weights (`TokenPriors`).
    """
    mixes: dict[int, np.ndarray] = {}
    if priors is None:
        rows = []
        for reader in readers:
            weights = reader.effective_weights().detach().double()
            if weights.ndim == 3:  # heads are mixed with others: by the sources' heads too
                mixes[reader.place] = _spread(weights, reader, dim=1).cpu().numpy()
                weights = weights.abs().sum(dim=-1)
            rows.append(_spread(_shares(weights), reader, dim=-1).cpu().numpy())
        priors = _by_place(readers, rows)
    readers = [reader for reader in readers if reader.place in priors]  # not those that an early exit leaves out
    sources = {reader.place: reader.source_ids for reader in readers}
    sets: dict[int, tuple[str, ...]] = {}
    for reader in readers:
        sets[reader.place] = (*sets.get(reader.place, ()), *reader.weight_sets)
    first = readers[0]
    of_first = _kind_of(first), first.depends_on_tokens, first.sources_are
    return RetrievalWeights(label, priors, sources, first.top_p, mixes, sets, *of_first)


def _kind_of(reader: DepthReader) -> str:
    if isinstance(reader, AttachedRouter):
        return ATTACHED_ROUTERS if reader.called == LIME_ROUTERS else CONNECTIONS
    return ROUTERS if isinstance(reader, Router) and not isinstance(reader, ValueRouter) else CONNECTIONS


def _by_place(readers: Iterable[DepthReader], rows: Iterable[np.ndarray]) -> dict[int, np.ndarray]:
    """The rows `[G, r + 1]` of readers, those of one place together."""
    places: dict[int, list[np.ndarray]] = {}
    for reader, own in zip(readers, rows, strict=True):
        places.setdefault(reader.place, []).append(own)
    return {place: np.concatenate(own) for place, own in places.items()}


class TokenPriors:
    """The mean over tokens of weights that depend on them."""

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


def weights_of_call(reader: DepthReader, call: tuple) -> Tensor:
    """The weights `[B, T, G, r + 1]` of one call of a reader that depends on tokens, zero where it does not read.

    Args:
        call: what the reader's forward was called with, as its hooks see it.
    """
    return _spread(_shares(reader.effective_weights(call)), reader, dim=-1)


def _shares(weights: Tensor) -> Tensor:
    """Each entry's part of the absolute values along the last dimension; zeros where all are zero."""
    weights = weights.abs()
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def _spread(weights: Tensor, reader: DepthReader, dim: int) -> Tensor:
    """Put the n entries along a dimension to the r + 1 places of the representations, zero at those not read."""
    count = reader.place + 1
    if weights.shape[dim] == count:
        return weights
    shape = list(weights.shape)
    shape[dim] = count
    places = torch.tensor(reader.source_ids, device=weights.device)
    return weights.new_zeros(shape).index_copy(dim, places, weights)


@torch.no_grad()
def _priors_of(
    model: PreTrainedModel, readers: list[DepthReader], sequences: Iterable[Tensor]
) -> dict[int, np.ndarray]:
    priors = TokenPriors()

    def observe(number: int):
        def hook(reader, inputs):
            # An attached router is called for keys and for values: twice with the same weights, as a mean forgives.
            priors.add(number, weights_of_call(reader, inputs))

        return hook

    hooks = [reader.register_forward_pre_hook(observe(number)) for number, reader in enumerate(readers)]
    try:
        # A compiled model would pass over hooks that are new to it.
        with without_dropout(model), torch.compiler.set_stance("force_eager"):
            for batch in sequences:
                run_decoder(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    means = priors.means()
    if not means:
        raise ValueError("dynamic routing depends on the tokens: give sequences to average over")
    return _by_place([readers[number] for number in means], means.values())


def run_decoder(model: nn.Module, batch: Tensor) -> None:
    """Run a model on token ids `[B, T]` for what is seen on the way: hardly any logits, and no cache."""
    if not isinstance(model, PreTrainedModel):  # a model of somebody's own
        model(batch)
        return
    no_logits = {"logits_to_keep": 1} if model.get_output_embeddings() is not None else {}
    model(input_ids=batch.to(model.device), use_cache=False, **no_logits)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and each back in its own afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
