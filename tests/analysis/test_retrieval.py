import numpy as np
import pytest

from limelm.analysis import RetrievalWeights, expected_source, self_retrieval, weight_records


def test_statistics_by_hand():
    layers = {1: np.array([[0.2, 0.8], [0.6, 0.4]]), 2: np.array([[0.1, 0.2, 0.7], [0, 1, 0]])}
    weights = RetrievalWeights("m", layers, {1: (0, 1), 2: (0, 1, 2)})
    assert [(r["layer"], r["head"], r["weight"]) for r in self_retrieval(weights)] == [
        (1, 0, 0.8),
        (1, 1, 0.4),
        (2, 0, 0.7),
        (2, 1, 0.0),
    ]
    first, second = expected_source(weights)
    assert (first["expected_source"], first["lowest_head"], first["highest_head"]) == pytest.approx((0.6, 0.4, 0.8))
    assert (second["expected_source"], second["lowest_head"], second["highest_head"]) == pytest.approx((1.3, 1, 1.6))
    records = weight_records(weights)
    assert len(records) == 10 and records[4] == {"model": "m", "layer": 2, "head": 0, "source": 0, "weight": 0.1}
