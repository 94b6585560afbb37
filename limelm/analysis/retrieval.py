"""Statistics of retrieval weights: the paper's Figures 3, 4, 9, 10, 13 and 14 and Table 5. Figure 2's is in
`limelm.adapters.retrieval`.

Layers and sources count from zero: layer r reads the representations 0 (the token embedding) to r (its own input).
Statistics are lists of records, one a row of the CSV that stands beside the figure.
"""

import numpy as np

from limelm.adapters.retrieval import Records, RetrievalWeights, mean_by_source
from limelm.training.router_statistics import layer_statistics, pruning_totals


def retrieval_records(weights: RetrievalWeights) -> dict[str, Records]:
    """All of them, by the name of their figure or table; those of top-p only for a model that prunes.

    Where keys and values have routers of their own, each of the two is a model in them.
    """
    records: dict[str, Records] = {}
    for part in weights.split():
        for name, rows in _records(part).items():
            records.setdefault(name, []).extend(rows)
    return records


def _records(weights: RetrievalWeights) -> dict[str, Records]:
    records = {
        "mean_retrieval": mean_by_source(weights),
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
    """Every weight (Figures 13 and 14): layer r, head, source m."""
    return [
        {"model": weights.model, "layer": layer, "head": head, "source": source, "weight": float(value)}
        for layer, matrix in weights.layers.items()
        for (head, source), value in np.ndenumerate(matrix)
        if source in weights.sources[layer]
    ]


def self_retrieval(weights: RetrievalWeights) -> Records:
    """The weight of each head on its layer's own input (Figure 3)."""
    return [
        {"model": weights.model, "layer": layer, "head": head, "weight": float(value)}
        for layer, matrix in weights.layers.items()
        for head, value in enumerate(matrix[:, layer])
    ]


def self_retrieval_by_layer(weights: RetrievalWeights) -> Records:
    """The weight on the layer's own input, mean over heads (Figure 10)."""
    return [
        {"model": weights.model, "layer": layer, "weight": float(matrix[:, layer].mean())}
        for layer, matrix in weights.layers.items()
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


def layer_mass(weights: RetrievalWeights) -> Records:
    """How much layer r takes from representation m, mean over heads.

    Returns:
        Records of `layer`, `source` and `share`; for kv routing (the paper's second version, Figure 5) also `absolute`,
        the sum of |R| over source heads, and `same_head_share`, the part of it that stays in the same head.
    """
    records: Records = []
    for layer, matrix in weights.layers.items():
        mix = np.abs(weights.head_mixes[layer]) if layer in weights.head_mixes else None
        for source in weights.sources[layer]:
            row = {"model": weights.model, "layer": layer, "source": source, "share": float(matrix[:, source].mean())}
            if mix is None:
                records.append({**row, "absolute": None, "same_head_share": None})
                continue
            total = float(mix[:, source].sum())
            same = float(mix[:, source].trace()) / total if total else None
            records.append({**row, "absolute": total / len(mix), "same_head_share": same})
    return records


def pruned_weights(weights: RetrievalWeights) -> Records:
    """How many weights top-p prunes, of those there are and of the paper's padded total (Table 5); one record."""
    heads, layers = weights.num_heads, weights.num_layers
    totals = pruning_totals(layer_statistics(weights), heads, layers)
    return [{"model": weights.model, "layers": layers, "heads": heads, "top_p": weights.top_p, **totals}]


def retrieval_under_top_p(weights: RetrievalWeights) -> Records:
    """Figure 9's two curves at depth n: `mean_retrieval` of representation n in the layers that read it, and
    `self_retrieval` of layer n, whose input it is; None where there is none.
    """
    mean = {row["source"]: row["mean_weight"] for row in mean_by_source(weights)}
    own = {row["layer"]: row["weight"] for row in self_retrieval_by_layer(weights)}
    return [
        {"model": weights.model, "depth": depth, "mean_retrieval": mean.get(depth), "self_retrieval": own.get(depth)}
        for depth in range(weights.num_layers)
    ]
