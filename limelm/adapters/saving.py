"""`save_pretrained` of a model with attached routers, so that they are not lost without a word.

transformers saves routers among the other weights, and cannot read them back. So config.json says how they are
attached, and `limelm.load_model` attaches them again.
"""

import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file

from limelm.adapters.kinds import AdapterConfig
from limelm.errors import UserError
from limelm.records import build, load_json

FIELD = "attached_routing"  # in config.json
LOADER = "limelm.load_model"


def keep_routers_when_saved(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Let `save_pretrained`, which `Trainer` and `push_to_hub` call, say in config.json how routers are attached."""
    model.save_pretrained = partial(_save, config, model)  # type: ignore[method-assign]


def save_as_before(model: nn.Module) -> None:
    """Undo `keep_routers_when_saved`."""
    for module in model.modules():
        saving = module.__dict__.get("save_pretrained")
        if isinstance(saving, partial) and saving.func is _save:
            del module.__dict__["save_pretrained"]


def saved_routing(config: PreTrainedConfig, checkpoint: str | Path) -> AdapterConfig | None:
    """The configuration of a saved model's attached routers; None if it had none.

    Raises:
        UserError: for a field of config.json that does not say it.
    """
    value = getattr(config, FIELD, None)
    return None if value is None else build(AdapterConfig, value, f"{checkpoint}: config.json", FIELD)


def saved_vocabulary(config: PreTrainedConfig) -> int | None:
    """The vocabulary size of the checkpoint that a model was loaded from; None if that cannot be read."""
    if not config.name_or_path:
        return None
    try:
        path = cached_file(config.name_or_path, CONFIG_NAME, local_files_only=True)
        content = load_json(Path(path))
    except (OSError, ValueError, UserError):
        return None
    rows = (content.get("text_config") or content).get("vocab_size") if isinstance(content, dict) else None
    return rows if isinstance(rows, int) else None


def forget_saved_routing(model: PreTrainedModel) -> bool:
    """Take the field off a loaded model's configuration; returns whether it was there."""
    return model.config.__dict__.pop(FIELD, None) is not None


def _save(config: AdapterConfig, model: PreTrainedModel, save_directory: Any, *arguments: Any, **options: Any) -> Any:
    save = type(model).save_pretrained
    if getattr(model, "_hf_peft_config_loaded", False):
        warnings.warn(
            f"{save_directory}: save_pretrained writes the LoRA without the attached routers; "
            "limelm.save_adapter(model, folder) writes both",
            stacklevel=2,
        )
        return save(model, save_directory, *arguments, **options)
    warnings.warn(
        f"{save_directory}: holds attached routers, which {LOADER} reads and from_pretrained leaves out; "
        "limelm.save_adapter(model, folder) writes an adapter instead",
        stacklevel=2,
    )
    model.config.update({FIELD: asdict(config)})
    try:
        return save(model, save_directory, *arguments, **options)
    finally:
        forget_saved_routing(model)
