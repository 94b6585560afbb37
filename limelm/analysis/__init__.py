"""Measurements on a model: what its routers retrieve, and what becomes of its representations with depth."""

from limelm.analysis.activations import ActivationReader, Activations
from limelm.analysis.checkpoints import Analysis, analyze
from limelm.analysis.circuits import circuit_records, tokens_of_routes, vocabulary_directions
from limelm.analysis.effect_records import effect_records
from limelm.analysis.gradients import gradient_norms
from limelm.analysis.interventions import Routes, routes, source_means
from limelm.analysis.logit_lens import LogitLens
from limelm.analysis.retrieval import RetrievalWeights, retrieval_weights
from limelm.analysis.retrieval_statistics import (
    expected_source,
    layer_mass,
    layer_statistics,
    mean_by_source,
    pruned_weights,
    pruning_totals,
    retrieval_records,
    retrieval_under_top_p,
    self_retrieval,
    self_retrieval_by_layer,
    weight_records,
)
from limelm.analysis.route_effects import RouteEffects, route_effects
from limelm.analysis.separability import Separability, clouds, separability
from limelm.analysis.similarity import any_pair_cosine, cka, neighbor_cosine
from limelm.analysis.spectrum import effective_rank, gram_spectrum, matrix_entropy
from limelm.analysis.study import ANALYSES, Settings

__all__ = [
    "ANALYSES",
    "ActivationReader",
    "Activations",
    "Analysis",
    "LogitLens",
    "RetrievalWeights",
    "RouteEffects",
    "Routes",
    "Separability",
    "Settings",
    "analyze",
    "any_pair_cosine",
    "circuit_records",
    "cka",
    "clouds",
    "effect_records",
    "effective_rank",
    "expected_source",
    "gradient_norms",
    "gram_spectrum",
    "layer_mass",
    "layer_statistics",
    "matrix_entropy",
    "mean_by_source",
    "neighbor_cosine",
    "pruned_weights",
    "pruning_totals",
    "retrieval_records",
    "retrieval_under_top_p",
    "retrieval_weights",
    "route_effects",
    "routes",
    "self_retrieval",
    "self_retrieval_by_layer",
    "separability",
    "source_means",
    "tokens_of_routes",
    "vocabulary_directions",
    "weight_records",
]
