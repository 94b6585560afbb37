"""The float64 version of any model here."""

from tests.models.entries import ENTRIES
from tests.models.naive import NaiveDecoder


def naive_copy(model) -> NaiveDecoder:
    """The naive version of a model, with float64 copies of its parameters that collect gradients of their own."""
    weights = {
        name: parameter.detach().double().clone().requires_grad_() for name, parameter in model.named_parameters()
    }
    return ENTRIES[model.config.model_type].naive(model.config, weights)
