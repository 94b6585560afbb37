"""The models, registered with the Auto classes on import."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from limelm.models.hyper_connection import HyperConnectionConfig, HyperConnectionForCausalLM, HyperConnectionModel
from limelm.models.lime import LimeConfig, LimeForCausalLM, LimeModel

for _config, _model, _causal_lm in (
    (LimeConfig, LimeModel, LimeForCausalLM),
    (HyperConnectionConfig, HyperConnectionModel, HyperConnectionForCausalLM),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoModelForCausalLM.register(_config, _causal_lm)

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
