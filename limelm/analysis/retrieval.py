"""What a model's routers retrieve: its retrieval weights, as they are now.

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

from limelm.adapters.routers import AttachedDynamicRouter, AttachedKeyValueRouter, AttachedRouter
from limelm.routing import ROUTER, DynamicRouter, KeyValueRouter, Router, StaticRouter, prune, top_p_mask, whole

AnyRouter = Router | AttachedRouter

#: What a router with two sets of weights has them for, in their order.
SETS = ("keys", "values")


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
        sets: SETS where keys and values have routers of their own; then the first half of every layer's rows, 2G in
            all, is for keys, the second for values. Else empty.
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
        """Those for keys and those for values, labelled so, where they differ; else these alone."""
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
    """What a model is called where only its routers for keys, or for values, are meant."""
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
    dynamic = {layer: router for layer, router in routers.items() if is_dynamic(router)}
    return weights_of_routers(routers, label, _dynamic_priors(model, dynamic, sequences) if dynamic else None)


def routers_of(model: nn.Module) -> dict[int, AnyRouter]:
    """The routers that have a choice, by layer; none for a model that does not route."""
    return {
        router.spec.layer_idx: router
        for router in all_routers(model)
        if router.spec.layer_idx > 0 and type(router) is not Router and getattr(router, "routes", True)
    }


def all_routers(model: nn.Module) -> Iterator[AnyRouter]:
    """The routers of a model or of a layer, those without a choice too; where PEFT has put others there, these."""
    for name, module in model.named_modules():
        if name.split(".")[-1] == ROUTER:
            active = _active(module)
            if isinstance(active, (Router, AttachedRouter)):
                yield active


def is_dynamic(router: AnyRouter) -> bool:
    """Whether its weights depend on tokens."""
    return isinstance(router, (DynamicRouter, AttachedDynamicRouter))


def sets_of(router: AnyRouter) -> tuple[str, ...]:
    """SETS where keys and values have weights of their own; else nothing."""
    return () if isinstance(router, Router) or router.spec.share_kv else SETS


def weights_of_routers(
    routers: dict[int, AnyRouter], label: str, priors: dict[int, np.ndarray] | None = None
) -> RetrievalWeights:
    """The retrieval weights of a model's routers.

    Args:
        priors: of dynamic routers `[G, r + 1]` per layer, the mean of their weights over tokens (`DynamicPriors`).
    """
    layers = priors or {layer: _constant_weights(router) for layer, router in routers.items()}
    sources = {layer: router.spec.sources for layer, router in routers.items()}
    mixing = (KeyValueRouter, AttachedKeyValueRouter)
    mixes = {layer: _head_mix(router) for layer, router in routers.items() if isinstance(router, mixing)}
    first = next(iter(routers.values()))
    return RetrievalWeights(label, layers, sources, getattr(first.spec, "top_p", None), mixes, sets_of(first))


class DynamicPriors:
    """The mean over tokens of dynamic routers' weights."""

    def __init__(self) -> None:
        self._totals: dict[int, Tensor] = {}
        self._tokens: dict[int, int] = {}

    def add(self, layer: int, A: Tensor) -> None:
        """Take in one layer's A `[B, T, G, r + 1]` of a batch."""
        total = A.double().sum(dim=(0, 1)).cpu()
        self._totals[layer] = self._totals[layer] + total if layer in self._totals else total
        self._tokens[layer] = self._tokens.get(layer, 0) + A.shape[0] * A.shape[1]

    def means(self) -> dict[int, np.ndarray]:
        """Of each layer `[G, r + 1]`."""
        return {layer: (total / self._tokens[layer]).numpy() for layer, total in self._totals.items()}


def routing_weights_of_call(router: AnyRouter, arguments: tuple) -> Tensor:
    """The weights `[B, T, G, r + 1]` of one call of a dynamic router, zero where it does not read.

    Args:
        arguments: what the router's forward was called with, as its hooks see it.
    """
    if isinstance(router, AttachedRouter):
        history = arguments[2]
        A = _shares(router.effective_weights(history))
    else:
        assert isinstance(router, DynamicRouter)
        gain = arguments[1]
        A = router.routing_weights(gain * own_representation(arguments))
    return _spread(A, router, dim=-1)


def own_representation(arguments: tuple) -> Tensor:
    """X_i / rms(X_i) `[B, T, D]`, the last source of one call of a native router; arguments as above."""
    attention_input, sources = arguments[0], arguments[5]
    last = sources[-1]
    return last if last.shape == attention_input.shape else last[-1].view_as(attention_input)


def _active(module: nn.Module) -> nn.Module:
    """The module itself, or what PEFT's ModulesToSaveWrapper calls instead."""
    if not hasattr(module, "modules_to_save"):
        return module
    if module.disable_adapters or not module.active_adapters:
        return module.original_module  # type: ignore[return-value]
    return module.modules_to_save[module.active_adapters[0]]  # type: ignore[index, return-value]


def _constant_weights(router: AnyRouter) -> np.ndarray:
    if isinstance(router, (KeyValueRouter, AttachedKeyValueRouter)):
        mass = np.abs(_head_mix(router)).sum(axis=-1)
        return mass / mass.sum(axis=-1, keepdims=True)
    if isinstance(router, AttachedRouter):
        A = _shares(router.effective_weights())
    elif isinstance(router, StaticRouter):
        A = whole(router.weight).detach().float().softmax(dim=-1)
        if router.spec.top_p is not None:
            A = prune(A, top_p_mask(A, router.spec.top_p))
    else:
        raise TypeError(f"{type(router).__name__} has no constant weights")
    return _over_all(A, router)


def _head_mix(router: KeyValueRouter | AttachedKeyValueRouter) -> np.ndarray:
    """R `[G, r + 1, G]`."""
    if isinstance(router, AttachedKeyValueRouter):
        return _over_all(router.effective_weights(), router)
    return _over_all(whole(router.weight).detach().unflatten(1, (-1, router.spec.num_heads)), router)


def _shares(weights: Tensor) -> Tensor:
    """Of the absolute weights of each row; distributions stay what they are."""
    weights = weights.abs()
    return weights / weights.sum(dim=-1, keepdim=True)


def _over_all(weights: Tensor, router: AnyRouter) -> np.ndarray:
    """Weights `[G, n, ...]` of the n sources that the layer reads, as `[G, r + 1, ...]`, zero at the others."""
    return _spread(weights.double(), router, dim=1).cpu().numpy()


def _spread(weights: Tensor, router: AnyRouter, dim: int) -> Tensor:
    """Put the n entries along a dimension to the r + 1 places of the representations, zero at those not read."""
    count = router.spec.layer_idx + 1
    if weights.shape[dim] == count:
        return weights
    shape = list(weights.shape)
    shape[dim] = count
    places = torch.tensor(router.spec.sources, device=weights.device)
    return weights.new_zeros(shape).index_copy(dim, places, weights)


@torch.no_grad()
def _dynamic_priors(
    model: PreTrainedModel, routers: dict[int, AnyRouter], sequences: Iterable[Tensor]
) -> dict[int, np.ndarray]:
    priors = DynamicPriors()

    def observe(layer: int):
        def hook(router, inputs):
            # An attached router is called for keys and for values: twice with the same weights, as a mean forgives.
            priors.add(layer, routing_weights_of_call(router, inputs))

        return hook

    hooks = [router.register_forward_pre_hook(observe(layer)) for layer, router in routers.items()]
    no_logits = {"logits_to_keep": 1} if model.get_output_embeddings() is not None else {}
    try:
        # A compiled model would pass over hooks that are new to it.
        with _without_dropout(model), torch.compiler.set_stance("force_eager"):
            for batch in sequences:
                model(input_ids=batch.to(model.device), use_cache=False, **no_logits)
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
