"""The models' place in the tables by which other libraries know a causal language model.

`Auto*.register` is enough to load a model. But transformers also keeps the names of its classes in plain tables, which
registration leaves alone and others read: the Trainer's label smoothing (labels are shifted for the classes of the
table only), pipelines, model cards, transformers' server and lm-eval. PEFT has tables of its own, by model type: the
modules that an adapter goes to where nobody says which.
"""

import importlib.util
import sys
from collections.abc import MutableMapping
from importlib.abc import MetaPathFinder
from types import ModuleType

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

_PEFT_TABLES = "peft.utils.constants"
#: Modules of Llama that PEFT can't adapt here, by model type: the layers read their weights instead of calling them, or
#: the model has none.
_NOT_FOR_PEFT = {
    "lime": ("k_proj", "v_proj", "input_layernorm"),
    "hyper_connection": ("input_layernorm", "post_attention_layernorm"),
}


def register(config: type[PreTrainedConfig], model: type[PreTrainedModel], causal_lm: type[PreTrainedModel]) -> None:
    """Let transformers, and who reads its tables, know a configuration and its two models."""
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    AutoModelForCausalLM.register(config, causal_lm)
    modeling_auto.MODEL_MAPPING_NAMES[config.model_type] = model.__name__
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type] = causal_lm.__name__


def register_with_peft() -> None:
    """Give PEFT the targets that an adapter has here by default: now, or when PEFT is imported."""
    if _PEFT_TABLES in sys.modules:
        _add_targets(sys.modules[_PEFT_TABLES])
    else:
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder):
    """Adds the targets as soon as PEFT's tables are imported: importing PEFT here would cost everybody seconds."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _PEFT_TABLES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_add(module: ModuleType) -> None:
            execute(module)
            _add_targets(module)

        spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
        return spec


def _add_targets(tables: ModuleType) -> None:
    """Llama's targets for our types, in every table that has them, but for those that can't be adapted."""
    for name, table in vars(tables).items():
        if not name.startswith("TRANSFORMERS_MODELS_TO_") or not isinstance(table, MutableMapping):
            continue
        if isinstance(targets := table.get("llama"), list):
            for model_type, excluded in _NOT_FOR_PEFT.items():
                if kept := [target for target in targets if target not in excluded]:
                    table[model_type] = kept
