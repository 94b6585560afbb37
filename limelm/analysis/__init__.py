"""Measurements on a model."""

from limelm.analysis.retrieval import (
    RetrievalWeights,
    expected_source,
    mean_by_source,
    retrieval_weights,
    self_retrieval,
    weight_records,
)
from limelm.analysis.run import measure_retrieval

__all__ = [
    "RetrievalWeights",
    "expected_source",
    "mean_by_source",
    "measure_retrieval",
    "retrieval_weights",
    "self_retrieval",
    "weight_records",
]
