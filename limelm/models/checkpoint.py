"""Read a checkpoint folder, with errors that say what is wrong with it."""

import json
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from limelm.errors import UserError
from limelm.models import MODEL_TYPES


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (in evaluation mode) and the tokenizer in `folder`.

    Raises:
        UserError: where there is no checkpoint, one of another model type, or a broken one.
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
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{folder}: broken checkpoint ({error})") from error
    return model, tokenizer
