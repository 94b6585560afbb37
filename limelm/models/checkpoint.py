"""Read a checkpoint folder, with errors that say what is wrong with it."""

import json
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from limelm.errors import UserError
from limelm.models import MODEL_TYPES


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (in evaluation mode) and the tokenizer in `folder`; errors as in `load_model`."""
    model = load_model(folder)
    try:
        return model, AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no readable tokenizer ({error})") from error


def load_model(folder: Path) -> PreTrainedModel:
    """The model in `folder`, in evaluation mode.

    Raises:
        UserError: where there is no checkpoint, one of another model type, or one whose weights do not fit its config.
    """
    config = folder / "config.json"
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except OSError as error:
        raise UserError(f"{folder}: not a checkpoint (no readable config.json)") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config}: not a model configuration ({error})") from error
    if model_type not in MODEL_TYPES:
        raise UserError(f"{config}: model_type={model_type!r} is not one of {', '.join(MODEL_TYPES)}")
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{folder}: broken checkpoint ({error})") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loaded[problem]:
            names = sorted(str(key) for key in loaded[problem])
            raise UserError(f"{folder}: weights do not fit config.json ({problem.replace('_', ' ')}: {names[0]}, ...)")
    return model
