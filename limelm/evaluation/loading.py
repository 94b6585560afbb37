"""A checkpoint that is evaluated: its model, its tokenizer, and what tells its results from another's."""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ADAPTER_CONFIG_NAME

from limelm.adapters.checkpoint import context_length, load_checkpoint, load_config, load_tokenizer
from limelm.adapters.files import LORA, find_adapter
from limelm.evaluation.items import Record, fingerprint
from limelm.extras import import_peft
from limelm.provenance import shown_path


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device.

    Attributes:
        label: its name, and its folder's below `out/items`.
        identity: what all its results depend on: weights, tokenizer, type, device, versions.
    """

    checkpoint: str
    label: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: Record

    def facts(self) -> Record:
        """Facts about the model, for the report."""
        config = self.model.config
        return {
            "label": self.label,
            "checkpoint": shown_path(self.checkpoint),
            "model_type": config.model_type,
            "routing": getattr(config, "routing", None),
            "parameters": self.model.num_parameters(),
            "context": context_length(config),
            "begins_with_bos": self.tokenizer("a").input_ids[:1] == [self.tokenizer.bos_token_id],
        }


@dataclass(frozen=True)
class Found:
    """A checkpoint that can be read, before its weights are.

    Attributes:
        context: tokens that its model reads at once; None where its configuration sets no bound.
    """

    checkpoint: str
    context: int | None
    tokenizer: PreTrainedTokenizerBase


def find_checkpoints(checkpoints: list[str]) -> list[Found]:
    """Find checkpoints with their contexts and tokenizers, before any of their models is read.

    Raises:
        UserError: for one without a readable configuration or tokenizer, and a LoRA where PEFT is not installed.
    """
    for checkpoint in checkpoints:
        if _has_lora(checkpoint):
            import_peft()
    return [
        Found(checkpoint, context_length(load_config(checkpoint)), load_tokenizer(checkpoint))
        for checkpoint in checkpoints
    ]


def _has_lora(checkpoint: str) -> bool:
    adapter = find_adapter(checkpoint)
    return (adapter is not None and (adapter / LORA).is_dir()) or (Path(checkpoint) / ADAPTER_CONFIG_NAME).is_file()


def load_for_evaluation(checkpoint: str, label: str, device: torch.device) -> LoadedModel:
    """Read a checkpoint; on a CPU its model computes in float32.

    Raises:
        UserError: for an unreadable checkpoint.
    """
    model, tokenizer = load_checkpoint(checkpoint)
    model = model.to(device) if device.type != "cpu" else model.float()
    identity = {
        "checkpoint": fingerprint(model, tokenizer),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device.type,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    return LoadedModel(checkpoint, label, model, tokenizer, identity)
