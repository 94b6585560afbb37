"""The models, registered on import with the Auto classes and with who else knows models by name."""

from limelm.models.hyper_connection import HyperConnectionConfig, HyperConnectionForCausalLM, HyperConnectionModel
from limelm.models.lime import LimeConfig, LimeForCausalLM, LimeModel
from limelm.models.registration import register, register_with_peft

register(LimeConfig, LimeModel, LimeForCausalLM)
register(HyperConnectionConfig, HyperConnectionModel, HyperConnectionForCausalLM)
register_with_peft()

#: The model types that this project trains and reads.
MODEL_TYPES = ("llama", LimeConfig.model_type, HyperConnectionConfig.model_type)

__all__ = [
    "MODEL_TYPES",
    "HyperConnectionConfig",
    "HyperConnectionForCausalLM",
    "HyperConnectionModel",
    "LimeConfig",
    "LimeForCausalLM",
    "LimeModel",
]
