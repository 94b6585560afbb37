"""Register the models in the tables by which other libraries know a causal language model.

transformers keeps the names of all models' classes in plain tables, and imports a class when somebody asks for it. Our
names go into the same tables, so that `import limelm` costs nothing until a model is used, and so that whoever reads
the tables finds them: the Auto classes, the Trainer's label smoothing (labels are shifted for the classes of the table
only), pipelines, model cards, transformers' server and lm-eval. PEFT has tables of its own, by model type: the modules
that an adapter goes to where nobody says which.

A table is filled at once where its module has been imported, and otherwise as soon as it is.
"""

import importlib.machinery
import sys
from collections.abc import Callable, MutableMapping
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any

#: How the names of a model's classes begin, by model type, which is the name of its folder or file in `limelm.models`.
MODELS = {
    "lime": "Lime",
    "hyper_connection": "HyperConnection",
    "residual_scalars": "ResidualScalars",
    "dense_former": "DenseFormer",
    "attention_residuals": "AttentionResiduals",
    "delta_attention_residuals": "DeltaAttentionResiduals",
    "mudd_former": "MUDDFormer",
    "deep_cross_attention": "DeepCrossAttention",
}
#: The classes of each model type: of its configuration, the model, and the model with a language-modeling head.
CLASSES = {
    model_type: (f"{prefix}Config", f"{prefix}Model", f"{prefix}ForCausalLM") for model_type, prefix in MODELS.items()
}
#: Modules of Llama that PEFT can't adapt here, by model type: the layers read their weights instead of calling them,
#: the model has none, or modules of a connection have the same name. Of other models it can adapt all.
_NOT_FOR_PEFT = {
    "lime": ("k_proj", "v_proj", "input_layernorm"),
    "hyper_connection": ("input_layernorm", "post_attention_layernorm"),
    "attention_residuals": ("norm",),
    "delta_attention_residuals": ("norm",),
}


def register() -> None:
    """Register the models with transformers, PEFT, and the libraries that read their tables."""
    waiting: dict[str, Callable[[Any], None]] = {}
    for name, add in _TABLES.items():
        if name in sys.modules:
            add(sys.modules[name])
        else:
            waiting[name] = add
    if waiting:
        sys.meta_path.insert(0, _AfterImport(waiting))


class _AfterImport(MetaPathFinder):
    """An import hook that calls a function with a module as soon as somebody else imports it."""

    def __init__(self, waiting: dict[str, Callable[[Any], None]]):
        self.waiting = waiting

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in self.waiting:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec

    def imported(self, module: ModuleType) -> None:
        """Call the function that waits for a module."""
        self.waiting.pop(module.__name__)(module)
        if not self.waiting:
            sys.meta_path.remove(self)


class _Loader(Loader):
    """A module's loader in the hands of an import hook, which is told when the module is there."""

    def __init__(self, loader: Loader, hook: _AfterImport):
        self.loader, self.hook = loader, hook

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader  # for whoever asks the module for its source
        self.loader.exec_module(module)
        self.hook.imported(module)


def _add_configs(configuration_auto: Any) -> None:
    for model_type, (config, _, _) in CLASSES.items():
        configuration_auto.CONFIG_MAPPING_NAMES[model_type] = config
        sys.modules[f"transformers.models.{model_type}"] = _StandIn(f"transformers.models.{model_type}")


def _add_models(modeling_auto: Any) -> None:
    for model_type, (config, model, causal_lm) in CLASSES.items():
        modeling_auto.MODEL_MAPPING_NAMES[model_type] = model
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type] = causal_lm
        for mapping in (modeling_auto.MODEL_MAPPING, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING):
            # Made when modeling_auto was imported: without our configurations, if that was before `import limelm`.
            mapping._reverse_config_mapping[config] = model_type


class _StandIn(ModuleType):
    """A module that transformers imports as `transformers.models.TYPE`, with the names of `limelm.models.TYPE`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module by inspect, warnings and others
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__.replace("transformers", "limelm", 1)), name)


def _add_targets(tables: Any) -> None:
    """Add Llama's targets for our types to every table, except for types that can't be adapted."""
    for name, table in vars(tables).items():
        if not name.startswith("TRANSFORMERS_MODELS_TO_") or not isinstance(table, MutableMapping):
            continue
        if isinstance(targets := table.get("llama"), list):
            for model_type in MODELS:
                excluded = _NOT_FOR_PEFT.get(model_type, ())
                if kept := [target for target in targets if target not in excluded]:
                    table[model_type] = kept


_TABLES: dict[str, Callable[[Any], None]] = {
    "transformers.models.auto.configuration_auto": _add_configs,
    "transformers.models.auto.modeling_auto": _add_models,
    "peft.utils.constants": _add_targets,
}
