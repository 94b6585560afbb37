"""What a model's routers retrieve: its retrieval weights, as they are now.

Layers and sources count from zero: layer r reads the representations 0 (the token embedding) to r (its own input). The
paper counts layers from one, so what it calls the layers after m, r > m, are all that read representation m: here
r >= m.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    """

    model: str
    layers: dict[int, np.ndarray]
    sources: dict[int, tuple[int, ...]]
    top_p: float | None = None

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
    routers = {
        module.spec.layer_idx: module
        for module in model.modules()
        if isinstance(module, Router) and module.spec.layer_idx > 0 and type(module) is not Router
    }
    if not routers:
        return None
    dynamic = {layer: router for layer, router in routers.items() if isinstance(router, DynamicRouter)}
    if dynamic:
        layers = _dynamic_priors(model, dynamic, sequences)
    else:
        layers = {layer: _constant_weights(router) for layer, router in routers.items()}
    sources = {layer: router.spec.sources for layer, router in routers.items()}
    return RetrievalWeights(label, layers, sources, next(iter(routers.values())).spec.top_p)


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
    if isinstance(router, StaticRouter):
        A = _whole(router.weight).float().softmax(dim=-1)
        if router.spec.top_p is not None:  # in training mode the mask follows the weights
            A = prune(A, top_p_mask(A, router.spec.top_p) if router.frozen_mask is None else router.frozen_mask)
        weights = A.double()
    elif isinstance(router, KeyValueRouter):
        mass = _whole(router.weight).double().abs().unflatten(1, (-1, router.spec.num_heads)).sum(dim=-1)
        weights = mass / mass.sum(dim=-1, keepdim=True)
    else:
        raise TypeError(f"{type(router).__name__} has no constant weights")
    over_all = torch.zeros(len(weights), router.spec.layer_idx + 1, dtype=torch.float64)
    over_all[:, router.spec.sources] = weights.cpu()
    return over_all.numpy()


def _whole(parameter: Tensor) -> Tensor:
    """Of a parameter that is sharded over ranks (a DTensor) the whole, on every rank."""
    parameter = parameter.detach()
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


@torch.no_grad()
def _dynamic_priors(
    model: PreTrainedModel, routers: dict[int, DynamicRouter], sequences: Iterable[Tensor]
) -> dict[int, np.ndarray]:
    totals = {layer: torch.zeros(router.spec.num_heads, layer + 1).double() for layer, router in routers.items()}
    tokens = 0

    def observe(layer: int):
        def hook(router, inputs):
            attention_input, gain, _, _, _, sources, *_ = inputs
            A = router.routing_weights(gain * sources[-1][-1].view_as(attention_input)).double()
            totals[layer][:, router.spec.sources] += A.sum(dim=(0, 1)).cpu()

        return hook

    hooks = [router.register_forward_pre_hook(observe(layer)) for layer, router in routers.items()]
    no_logits = {"logits_to_keep": 1} if model.get_output_embeddings() is not None else {}
    try:
        # A compiled model would pass over hooks that are new to it.
        with _without_dropout(model), torch.compiler.set_stance("force_eager"):
            for batch in sequences:
                model(input_ids=batch.to(model.device), use_cache=False, **no_logits)
                tokens += batch.numel()
    finally:
        for hook in hooks:
            hook.remove()
    if tokens == 0:
        raise ValueError("dynamic routing depends on the tokens: give sequences to average over")
    return {layer: (total / tokens).numpy() for layer, total in totals.items()}


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
