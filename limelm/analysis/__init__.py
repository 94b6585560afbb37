"""Measurements on a model."""

from limelm.analysis.retrieval import expected_source, self_retrieval, weight_records
from limelm.analysis.run import measure_retrieval
from limelm.models.retrieval import RetrievalWeights, mean_by_source, retrieval_weights

__all__ = [
    "RetrievalWeights",
    "expected_source",
    "mean_by_source",
    "measure_retrieval",
    "retrieval_weights",
    "self_retrieval",
    "weight_records",
]
