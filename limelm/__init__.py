"""limelm: Layer-Integrated Memory language models (Gerasimov et al. 2025, arXiv 2502.09245).

Importing this package registers the model types "lime" and "hyper_connection" with transformers' Auto classes.
"""

from limelm._version import __version__
from limelm.adapters import attach, detach, load_adapter, save_adapter, set_trainable
from limelm.models import (
    HyperConnectionConfig,
    HyperConnectionForCausalLM,
    HyperConnectionModel,
    LimeConfig,
    LimeForCausalLM,
    LimeModel,
)

__all__ = [
    "HyperConnectionConfig",
    "HyperConnectionForCausalLM",
    "HyperConnectionModel",
    "LimeConfig",
    "LimeForCausalLM",
    "LimeModel",
    "__version__",
    "attach",
    "detach",
    "load_adapter",
    "save_adapter",
    "set_trainable",
]
