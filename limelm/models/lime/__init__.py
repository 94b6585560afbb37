"""LIMe models."""

from limelm.models.lime.configuration_lime import LimeConfig
from limelm.models.lime.modeling_lime import LimeForCausalLM, LimeModel

__all__ = ["LimeConfig", "LimeForCausalLM", "LimeModel"]
