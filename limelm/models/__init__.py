"""The models, which limelm.registration makes known to other libraries."""

from limelm.models.hyper_connection import HyperConnectionConfig, HyperConnectionForCausalLM, HyperConnectionModel
from limelm.models.lime import LimeConfig, LimeForCausalLM, LimeModel
from limelm.registration import CLASSES

#: The model types that this project trains and reads.
MODEL_TYPES = ("llama", *CLASSES)

__all__ = [
    "MODEL_TYPES",
    "HyperConnectionConfig",
    "HyperConnectionForCausalLM",
    "HyperConnectionModel",
    "LimeConfig",
    "LimeForCausalLM",
    "LimeModel",
]
