"""Statistics of retrieval weights: the paper's Figures 2, 3, 4, 9, 10, 13 and 14 and Table 5.

Layers and sources count from zero: layer r reads the representations 0 (the token embedding) to r (its own input).
Statistics are lists of records, one a row of the CSV that stands beside the figure.
"""

import numpy as np

from limelm.analysis.retrieval import RetrievalWeights
from limelm.records import Records


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


def layer_statistics(weights: RetrievalWeights) -> Records:
    """One record per routing layer, in depth order.

    Returns:
        Records of `layer`; `entropy` in nats, of a head's weights over the sources that the layer reads, mean over
        heads, and `normalized_entropy`, the same over its maximum ln(sources) (0 where one source is read);
        `self_weight`, the weight on the layer's own input, mean over heads; `weights`, how many there are (heads x
        sources), and `pruned`, how many of them top-p makes zero. For dynamic routing they are of the mean over tokens.
    """
    records = []
    for layer, matrix in sorted(weights.layers.items()):
        read = matrix[:, weights.sources[layer]]
        heads, sources = read.shape
        entropy = float((read * np.log(1 / np.where(read > 0, read, 1))).sum(axis=1).mean())
        records.append(
            {
                "layer": layer,
                "entropy": entropy,
                "normalized_entropy": entropy / float(np.log(sources)) if sources > 1 else 0.0,
                "self_weight": float(matrix[:, layer].mean()),
                "pruned": 0 if weights.top_p is None else int((read == 0).sum()),
                "weights": heads * sources,
            }
        )
    return records


def pruning_totals(records: Records, heads: int, layers: int) -> dict[str, int | float]:
    """Pruned weights of the whole model (Table 5), from its `layer_statistics`.

    Args:
        heads: H, key/value heads.
        layers: L, of the decoder, the first one, which does not route, included.

    Returns:
        `pruned`; `weights`, those that there are (H (L(L+1)/2 - 1) where every layer reads all before it);
        `padded_weights`, H L (L-1), the size of one array for all layers, zeros included, which the paper prints as
        the total; and `pruned_share` and `padded_pruned_share` of the two.
    """
    pruned, weights = (sum(record[key] for record in records) for key in ("pruned", "weights"))
    padded = heads * layers * (layers - 1)
    return {
        "pruned": pruned,
        "weights": weights,
        "padded_weights": padded,
        "pruned_share": pruned / weights,
        "padded_pruned_share": pruned / padded,
    }


def retrieval_records(weights: RetrievalWeights) -> dict[str, Records]:
    """All statistics of retrieval weights by figure or table; those of top-p only for a model that prunes.

    Where keys and values have routers of their own, each of the two is a model in them.
    """
    records: dict[str, Records] = {}
    for part in weights.split():
        for name, rows in _records(part).items():
            records.setdefault(name, []).extend(rows)
    return records


def _records(weights: RetrievalWeights) -> dict[str, Records]:
    what_is_read = {key: getattr(weights, key) for key in ("readers", "depends_on_tokens", "sources_are")}
    records = {
        "mean_retrieval": [row | what_is_read for row in mean_by_source(weights)],
        "self_retrieval": self_retrieval(weights),
        "self_retrieval_by_layer": self_retrieval_by_layer(weights),
        "expected_source": expected_source(weights),
        "layer_mass": layer_mass(weights),
        "weights": weight_records(weights),
    }
    if weights.top_p is not None:
        records["pruned_weights"] = pruned_weights(weights)
        records["retrieval_under_top_p"] = retrieval_under_top_p(weights)
    return records


def weight_records(weights: RetrievalWeights) -> Records:
    """Every weight (Figures 13 and 14): layer r, head, source m; `sources_are` says what the layer reads."""
    read = {"model": weights.model, "sources_are": weights.sources_are}
    return [
        {**read, "layer": layer, "head": head, "source": source, "weight": float(value)}
        for layer, matrix in weights.layers.items()
        for (head, source), value in np.ndenumerate(matrix)
        if source in weights.sources[layer]
    ]


def self_retrieval(weights: RetrievalWeights) -> Records:
    """The weight of each head on its layer's own input (Figure 3), and what it would be if all sources had the same."""
    return [
        {"model": weights.model, "layer": layer, "head": head, "weight": float(value), "uniform": uniform}
        for layer, matrix in weights.layers.items()
        for uniform in [_uniform(weights, layer)]
        for head, value in enumerate(matrix[:, layer])
    ]


def self_retrieval_by_layer(weights: RetrievalWeights) -> Records:
    """The weight on the layer's own input, mean over heads (Figure 10); `uniform` as in `self_retrieval`."""
    return [
        {
            "model": weights.model,
            "layer": layer,
            "weight": float(matrix[:, layer].mean()),
            "uniform": _uniform(weights, layer),
        }
        for layer, matrix in weights.layers.items()
    ]


def _uniform(weights: RetrievalWeights, layer: int) -> float:
    """The weight on a layer's own input of a head without preferences: none where it does not read that."""
    sources = weights.sources[layer]
    return sources.count(layer) / len(sources)


def expected_source(weights: RetrievalWeights) -> Records:
    """The expected retrieved representation `sum_m m A[r, m]`, mean and range over heads (Figure 4).

    `uniform` is what it is of a head without preferences: the mean of the sources that the layer reads.
    """
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
                "uniform": float(np.mean(weights.sources[layer])),
            }
        )
    return records


def layer_mass(weights: RetrievalWeights) -> Records:
    """The weight that layer r puts on representation m, mean over heads.

    Returns:
        Records of `layer`, `source`, `sources_are` and `share`; for kv routing (the paper's second version, Figure 5)
        also `absolute`, the sum of `abs(R)` over source heads, and `same_head_share`, the part of it that stays in the
        same head.
    """
    records: Records = []
    read = {"model": weights.model, "sources_are": weights.sources_are}
    for layer, matrix in weights.layers.items():
        mix = np.abs(weights.head_mixes[layer]) if layer in weights.head_mixes else None
        for source in weights.sources[layer]:
            row = {**read, "layer": layer, "source": source, "share": float(matrix[:, source].mean())}
            if mix is None:
                records.append({**row, "absolute": None, "same_head_share": None})
                continue
            total = float(mix[:, source].sum())
            same = float(mix[:, source].trace()) / total if total else None
            records.append({**row, "absolute": total / len(mix), "same_head_share": same})
    return records


def pruned_weights(weights: RetrievalWeights) -> Records:
    """The number of weights that top-p prunes, of all weights and of the paper's padded total (Table 5); one record."""
    heads, layers = weights.num_heads, weights.num_layers
    totals = pruning_totals(layer_statistics(weights), heads, layers)
    return [{"model": weights.model, "layers": layers, "heads": heads, "top_p": weights.top_p, **totals}]


def retrieval_under_top_p(weights: RetrievalWeights) -> Records:
    """The two curves of Figure 9 at each depth n.

    Fields: `mean_retrieval` of representation n in the layers that read it, and `self_retrieval` of layer n, whose
    input it is; None where there is none.
    """
    mean = {row["source"]: row["mean_weight"] for row in mean_by_source(weights)}
    own = {row["layer"]: row["weight"] for row in self_retrieval_by_layer(weights)}
    return [
        {"model": weights.model, "depth": depth, "mean_retrieval": mean.get(depth), "self_retrieval": own.get(depth)}
        for depth in range(weights.num_layers)
    ]
