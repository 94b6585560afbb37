"""Load a checkpoint for evaluation: model, tokenizer, and the fingerprint that its results are kept under."""

from dataclasses import dataclass

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limelm.evaluation.items import checkpoint_fingerprint
from limelm.loading import context_length, load_on
from limelm.provenance import shown_path
from limelm.records import Record


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
            "connection": getattr(config, "connection", None),
            "parameters": self.model.num_parameters(),
            "context": context_length(config),
            "begins_with_bos": self.tokenizer("a").input_ids[:1] == [self.tokenizer.bos_token_id],
        }


def load_for_evaluation(checkpoint: str, label: str, device: torch.device) -> LoadedModel:
    """Read a checkpoint; on a CPU its model computes in float32.

    Raises:
        UserError: for an unreadable checkpoint.
    """
    model, tokenizer = load_on(device, checkpoint)
    identity = {
        "checkpoint": checkpoint_fingerprint(model, tokenizer),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device.type,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    return LoadedModel(checkpoint, label, model, tokenizer, identity)
