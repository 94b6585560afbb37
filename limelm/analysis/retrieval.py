"""What the routers retrieve: retrieval weights of a model and the statistics of the paper's Figures 2, 3, 4 and 13.

Layers and sources count from zero: layer r reads the representations 0 (the token embedding) to r (its own input).
Statistics are lists of records, one a row of the CSV that stands beside the figure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from limelm.routing import DynamicRouter, KeyValueRouter, Router, StaticRouter

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
    """

    model: str
    layers: dict[int, np.ndarray]
    sources: dict[int, tuple[int, ...]]


def retrieval_weights(model: PreTrainedModel, label: str, sequences: Iterable[Tensor] = ()) -> RetrievalWeights | None:
    """Collect a model's retrieval weights.

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
    return RetrievalWeights(label, layers, {layer: router.spec.sources for layer, router in routers.items()})


def weight_records(weights: RetrievalWeights) -> Records:
    """Every weight (Figure 13): layer r, head, source m."""
    return [
        {"model": weights.model, "layer": layer, "head": head, "source": source, "weight": float(value)}
        for layer, matrix in weights.layers.items()
        for (head, source), value in np.ndenumerate(matrix)
    ]


def mean_by_source(weights: RetrievalWeights) -> Records:
    """The mean weight on each representation m among the layers that can read it, r >= m (Figure 2).

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
        for source in range(max(means) + 1)
        if readers(source)
    ]


def self_retrieval(weights: RetrievalWeights) -> Records:
    """The weight of each head on its layer's own input (Figure 3)."""
    return [
        {"model": weights.model, "layer": layer, "head": head, "weight": float(value)}
        for layer, matrix in weights.layers.items()
        for head, value in enumerate(matrix[:, layer])
    ]


def expected_source(weights: RetrievalWeights) -> Records:
    """The expected retrieved representation `sum_m m A[r, m]`, mean and range over heads (Figure 4)."""
    records = []
    for layer, matrix in weights.layers.items():
        expected = matrix @ np.arange(layer + 1)
        records.append(
            {
                "model": weights.model,
                "layer": layer,
                "expected_source": float(expected.mean()),
                "lowest_head": float(expected.min()),
                "highest_head": float(expected.max()),
            }
        )
    return records


def _constant_weights(router: Router) -> np.ndarray:
    if isinstance(router, StaticRouter):
        weights = router.routing_weights().detach().double()
    elif isinstance(router, KeyValueRouter):
        mass = router.weight.detach().double().abs().unflatten(1, (-1, router.spec.num_heads)).sum(dim=-1)
        weights = mass / mass.sum(dim=-1, keepdim=True)
    else:
        raise TypeError(f"{type(router).__name__} has no constant weights")
    over_all = torch.zeros(len(weights), router.spec.layer_idx + 1, dtype=torch.float64)
    over_all[:, router.spec.sources] = weights.cpu()
    return over_all.numpy()


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
    try:
        for batch in sequences:
            model(input_ids=batch.to(model.device), use_cache=False)
            tokens += batch.numel()
    finally:
        for hook in hooks:
            hook.remove()
    if tokens == 0:
        raise ValueError("dynamic routing depends on the tokens: give sequences to average over")
    return {layer: (total / tokens).numpy() for layer, total in totals.items()}
