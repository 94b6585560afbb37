"""limelm: Layer-Integrated Memory language models (Gerasimov et al. 2025, arXiv 2502.09245).

Importing this package registers its model types, from "lime" to the other connections over depth (docs/models.md), with
transformers' Auto classes. What it exports is imported when it is first used: torch and transformers take seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

from limelm._version import __version__
from limelm.registration import CLASSES as _CLASSES
from limelm.registration import register as _register

if TYPE_CHECKING:
    from limelm.adapters import attach, detach, load_adapter, save_adapter, set_trainable
    from limelm.analysis import routes
    from limelm.explorer import explore
    from limelm.loading import load_model
    from limelm.models import HyperConnectionConfig as HyperConnectionConfig
    from limelm.models import HyperConnectionForCausalLM as HyperConnectionForCausalLM
    from limelm.models import HyperConnectionModel as HyperConnectionModel
    from limelm.models import LimeConfig as LimeConfig
    from limelm.models import LimeForCausalLM as LimeForCausalLM
    from limelm.models import LimeModel as LimeModel
    from limelm.optimization import parameter_groups

_MODELS = frozenset(name for names in _CLASSES.values() for name in names)

__all__ = [
    *sorted(_MODELS),
    "__version__",
    "attach",
    "detach",
    "explore",
    "load_adapter",
    "load_model",
    "parameter_groups",
    "routes",
    "save_adapter",
    "set_trainable",
]

_ELSEWHERE = {"load_model": "loading", "parameter_groups": "optimization", "routes": "analysis", "explore": "explorer"}
_PACKAGES = frozenset({"adapters", "models", "routing"})

_register()


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"limelm.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "models" if name in _MODELS else _ELSEWHERE.get(name, "adapters")
    value = getattr(importlib.import_module(f"limelm.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
