"""Read a causal language model, or an adapter upon its base, with errors that say what is wrong with it."""

import json
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from limelm.adapters.config import AdapterConfig
from limelm.adapters.files import DESCRIPTION, find_adapter, load_adapter, read_description
from limelm.errors import UserError
from limelm.extras import import_extra
from limelm.models import MODEL_TYPES

PEFT_DESCRIPTION = "adapter_config.json"


def load_checkpoint(checkpoint: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (in evaluation mode) and its tokenizer; arguments and errors as in `load_model`."""
    return load_model(checkpoint), load_tokenizer(checkpoint)


def load_tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer; argument as in `load_model`.

    Raises:
        UserError: where there is none.
    """
    folder, base = _base_of(checkpoint)
    if folder is not None and not (folder / "tokenizer_config.json").is_file():
        return load_tokenizer(base)
    try:
        return AutoTokenizer.from_pretrained(folder or checkpoint)
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: no readable tokenizer ({error})") from error


def load_model(checkpoint: str | Path) -> PreTrainedModel:
    """A causal language model, in evaluation mode.

    Args:
        checkpoint: a folder, or, where there is none of this name, a model of the Hugging Face hub; or an adapter, with
            whose base it is read.

    Raises:
        UserError: where there is no checkpoint, one that is not of a causal language model, or one whose weights do not
            fit its config; or an adapter without its base.
    """
    folder, base = _base_of(checkpoint)
    if folder is not None:
        try:
            model = load_model(base)
        except UserError as error:
            raise UserError(f"{checkpoint}: its base cannot be read: {error}; {DESCRIPTION} names it") from error
        if (folder / DESCRIPTION).exists():
            return load_adapter(model, folder).eval()
        import_extra("peft", "lora")
        model.load_adapter(str(folder))
        return model.eval()
    _read_config(checkpoint)
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise _unreadable(checkpoint, error) from error
    # Checkpoints of other families may hold buffers that their models no longer have.
    strict = model.config.model_type in MODEL_TYPES
    for problem in ("missing_keys", "mismatched_keys", *(("unexpected_keys",) if strict else ())):
        if loaded[problem]:
            names = sorted(str(key) for key in loaded[problem])
            raise UserError(
                f"{checkpoint}: weights do not fit config.json ({problem.replace('_', ' ')}: {names[0]}, ...)"
            )
    return model


def load_config(checkpoint: str | Path) -> PreTrainedConfig:
    """A checkpoint's configuration, for an adapter its base's; argument as in `load_model`.

    Raises:
        UserError: where there is none.
    """
    folder, base = _base_of(checkpoint)
    return _read_config(checkpoint) if folder is None else load_config(base)


def load_adapter_config(checkpoint: str | Path) -> AdapterConfig | None:
    """How an adapter attaches its routers; None for a checkpoint that has none to attach."""
    folder = find_adapter(checkpoint)
    return None if folder is None else AdapterConfig(**read_description(folder)["config"])


def context_length(config: PreTrainedConfig) -> int | None:
    """How many tokens a model reads at once; None where its configuration sets no bound."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _base_of(checkpoint: str | Path) -> tuple[Path | None, str]:
    """The folder and the base of an adapter, be it of routers or PEFT's; None and "" for what is not one."""
    folder = find_adapter(checkpoint)
    if folder is None:
        description = Path(checkpoint) / PEFT_DESCRIPTION
        if not description.is_file():
            return None, ""
        return Path(checkpoint), json.loads(description.read_text(encoding="utf-8"))["base_model_name_or_path"]
    base = read_description(folder)["base_model"]
    if base is None:
        raise UserError(f"{folder / DESCRIPTION}: names no base_model; write its folder or hub name there")
    base = str(folder / base) if (folder / base).is_dir() else base
    if Path(base).is_dir() and Path(base).resolve() == folder.resolve():
        raise UserError(f"{folder / DESCRIPTION}: names itself as its base_model")
    return folder, base


def _read_config(checkpoint: str | Path) -> PreTrainedConfig:
    """The configuration of what is no adapter."""
    if _is_folder(checkpoint):
        _check_config(Path(checkpoint))
    try:
        return AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise _unreadable(checkpoint, error) from error


def _is_folder(checkpoint: str | Path) -> bool:
    return isinstance(checkpoint, Path) or Path(checkpoint).exists()


def _unreadable(checkpoint: str | Path, error: Exception) -> UserError:
    folder = _is_folder(checkpoint)
    what = "broken checkpoint" if folder else "no such folder, and no readable model of the Hugging Face hub"
    return UserError(f"{checkpoint}: {what} ({str(error).strip().splitlines()[0]})")


def _check_config(folder: Path) -> None:
    config = folder / "config.json"
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except OSError as error:
        raise UserError(f"{folder}: not a checkpoint (no readable config.json)") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config}: not a model configuration ({error})") from error
    if not isinstance(model_type, str):
        raise UserError(f"{config}: it names no model_type")
