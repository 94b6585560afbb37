"""The models, which limelm.registration makes known to other libraries; each is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

from limelm.registration import CLASSES

if TYPE_CHECKING:
    from limelm.models.hyper_connection import HyperConnectionConfig as HyperConnectionConfig
    from limelm.models.hyper_connection import HyperConnectionForCausalLM as HyperConnectionForCausalLM
    from limelm.models.hyper_connection import HyperConnectionModel as HyperConnectionModel
    from limelm.models.lime import LimeConfig as LimeConfig
    from limelm.models.lime import LimeForCausalLM as LimeForCausalLM
    from limelm.models.lime import LimeModel as LimeModel

#: The model types that this project trains and reads.
MODEL_TYPES = ("llama", *CLASSES)
_MODULES = {name: model_type for model_type, names in CLASSES.items() for name in names}

__all__ = ["MODEL_TYPES", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"limelm.models.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
