"""Hyper-Connection models, the paper's second baseline."""

from limelm.models.hyper_connection.configuration_hyper_connection import HyperConnectionConfig
from limelm.models.hyper_connection.modeling_hyper_connection import HyperConnectionForCausalLM, HyperConnectionModel

__all__ = ["HyperConnectionConfig", "HyperConnectionForCausalLM", "HyperConnectionModel"]
