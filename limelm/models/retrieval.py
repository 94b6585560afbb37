"""What a model's routers retrieve: its retrieval weights, as they are now.

Layers and sources count from zero: layer r reads the representations 0 (the token embedding) to r (its own input). The
paper counts layers from one, so what it calls the layers after m, r > m, are all that read representation m: here
r >= m.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.routing import DynamicRouter, KeyValueRouter, Router, StaticRouter, prune, top_p_mask

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class RetrievalWeights:
    """One model's retrieval weights.

    Attributes:
        model: its label.
        layers: for each routing layer r its weights `[G, r + 1]`; every row sums to 1. For static routing the softmax
            weights (pruned ones zero), for dynamic routing their mean over tokens (the "prior"), for kv routing each
            layer's share of a head's absolute weights, as their signs are arbitrary.
        sources: for each routing layer the representations that it reads; its weights on others are zero.
        top_p: the mass that pruning keeps; None where nothing is pruned.
        head_mixes: of kv routing R of each layer, `[G, r + 1, G]` (head, source, its head), signed, zero where it does
            not read; empty for the others.
    """

    model: str
    layers: dict[int, np.ndarray]
    sources: dict[int, tuple[int, ...]]
    top_p: float | None = None
    head_mixes: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def num_heads(self) -> int:
        """G, the key/value heads."""
        return len(next(iter(self.layers.values())))

    @property
    def num_layers(self) -> int:
        """L of the decoder, layer 0, which does not route, included."""
        return max(self.layers) + 1


def retrieval_weights(model: PreTrainedModel, label: str, sequences: Iterable[Tensor] = ()) -> RetrievalWeights | None:
    """Collect a model's retrieval weights.

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
    dynamic = {layer: router for layer, router in routers.items() if isinstance(router, DynamicRouter)}
    return weights_of_routers(routers, label, _dynamic_priors(model, dynamic, sequences) if dynamic else None)


def routers_of(model: nn.Module) -> dict[int, Router]:
    """The routers that have a choice, by layer; none for a model that does not route."""
    return {
        module.spec.layer_idx: module
        for module in model.modules()
        if isinstance(module, Router) and module.spec.layer_idx > 0 and type(module) is not Router
    }


def weights_of_routers(
    routers: dict[int, Router], label: str, priors: dict[int, np.ndarray] | None = None
) -> RetrievalWeights:
    """The retrieval weights of a model's routers.

    Args:
        priors: of dynamic routers `[G, r + 1]` per layer, the mean of their weights over tokens (`DynamicPriors`).
    """
    layers = priors or {layer: _constant_weights(router) for layer, router in routers.items()}
    sources = {layer: router.spec.sources for layer, router in routers.items()}
    mixes = {layer: _head_mix(router) for layer, router in routers.items() if isinstance(router, KeyValueRouter)}
    return RetrievalWeights(label, layers, sources, next(iter(routers.values())).spec.top_p, mixes)


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


def routing_weights_of_call(router: DynamicRouter, arguments: tuple) -> Tensor:
    """A `[B, T, G, r + 1]` of one call of a router, zero where it does not read.

    Args:
        arguments: what the router's forward was called with, as its hooks see it.
    """
    gain = arguments[1]
    A = router.routing_weights(gain * own_representation(arguments))
    layer_idx = router.spec.layer_idx
    if router.spec.num_sources == layer_idx + 1:
        return A
    over_all = A.new_zeros(*A.shape[:-1], layer_idx + 1)
    over_all[..., list(router.spec.sources)] = A
    return over_all


def own_representation(arguments: tuple) -> Tensor:
    """X_i / rms(X_i) `[B, T, D]`, the last source of one call of a router of representations; arguments as above."""
    attention_input, sources = arguments[0], arguments[5]
    last = sources[-1]
    return last if last.shape == attention_input.shape else last[-1].view_as(attention_input)


def mean_by_source(weights: RetrievalWeights) -> Records:
    """The mean weight on each representation m among the layers that can read it, r >= m (Figures 2 and 9).

    `uniform` is what a router without preferences would give: early representations are read by more layers, and the
    later a layer, the more sources share its weight.
    """
    means = {layer: matrix.mean(axis=0) for layer, matrix in weights.layers.items()}

    def readers(source: int) -> list[int]:
        return [layer for layer, sources in weights.sources.items() if source in sources]

    return [
        {
            "model": weights.model,
            "source": source,
            "mean_weight": float(np.mean([means[layer][source] for layer in readers(source)])),
            "uniform": float(np.mean([1 / len(weights.sources[layer]) for layer in readers(source)])),
        }
        for source in range(weights.num_layers)
        if readers(source)
    ]


def _constant_weights(router: Router) -> np.ndarray:
    if isinstance(router, KeyValueRouter):
        mass = np.abs(_head_mix(router)).sum(axis=-1)
        return mass / mass.sum(axis=-1, keepdims=True)
    if not isinstance(router, StaticRouter):
        raise TypeError(f"{type(router).__name__} has no constant weights")
    A = _whole(router.weight).float().softmax(dim=-1)
    if router.spec.top_p is not None:  # in training mode the mask follows the weights
        A = prune(A, top_p_mask(A, router.spec.top_p) if router.frozen_mask is None else router.frozen_mask)
    return _over_all(A, router)


def _head_mix(router: KeyValueRouter) -> np.ndarray:
    """R `[G, r + 1, G]`."""
    return _over_all(_whole(router.weight).unflatten(1, (-1, router.spec.num_heads)), router)


def _over_all(weights: Tensor, router: Router) -> np.ndarray:
    """Weights `[G, n, ...]` of the n sources that the layer reads, as `[G, r + 1, ...]`, zero at the others."""
    over_all = weights.new_zeros(len(weights), router.spec.layer_idx + 1, *weights.shape[2:], dtype=torch.float64)
    over_all[:, list(router.spec.sources)] = weights.double()
    return over_all.cpu().numpy()


def _whole(parameter: Tensor) -> Tensor:
    """Of a parameter that is sharded over ranks (a DTensor) the whole, on every rank."""
    parameter = parameter.detach()
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


@torch.no_grad()
def _dynamic_priors(
    model: PreTrainedModel, routers: dict[int, DynamicRouter], sequences: Iterable[Tensor]
) -> dict[int, np.ndarray]:
    priors = DynamicPriors()

    def observe(layer: int):
        def hook(router, inputs):
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
