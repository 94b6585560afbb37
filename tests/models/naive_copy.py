"""The float64 version of any model here."""

from tests.models.naive import NaiveDecoder, NaiveHyperConnection, NaiveLime
from tests.models.naive_mhc import NaiveManifold
from tests.models.naive_rivals import RIVALS

NAIVE: dict[str, type[NaiveDecoder]] = {
    "lime": NaiveLime,
    "hyper_connection": NaiveHyperConnection,
    "mhc": NaiveManifold,
    **RIVALS,
}


def naive_copy(model) -> NaiveDecoder:
    """The naive version of a model, with float64 copies of its parameters that collect gradients of their own."""
    weights = {
        name: parameter.detach().double().clone().requires_grad_() for name, parameter in model.named_parameters()
    }
    kind = "mhc" if getattr(model.config, "connection", None) == "mhc" else model.config.model_type
    return NAIVE[kind](model.config, weights)
