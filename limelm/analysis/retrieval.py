"""Statistics of retrieval weights: the paper's Figures 3, 4 and 13. Figure 2's is in `limelm.models.retrieval`.

Layers and sources count from zero: layer r reads the representations 0 (the token embedding) to r (its own input).
Statistics are lists of records, one a row of the CSV that stands beside the figure.
"""

import numpy as np

from limelm.models.retrieval import Records, RetrievalWeights


def weight_records(weights: RetrievalWeights) -> Records:
    """Every weight (Figure 13): layer r, head, source m."""
    return [
        {"model": weights.model, "layer": layer, "head": head, "source": source, "weight": float(value)}
        for layer, matrix in weights.layers.items()
        for (head, source), value in np.ndenumerate(matrix)
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
