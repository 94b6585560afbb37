"""The checkpoints that the explorer is given: models beside each other, or steps of one training."""

import re
from pathlib import Path

import torch

from limelm.errors import UserError
from limelm.explorer.exploration import Subject
from limelm.loading import load_model, load_tokenizer, model_labels, to_device

STEP = re.compile(r"checkpoint-(\d+)")


def load_subjects(checkpoints: list[str], device: torch.device) -> list[Subject]:
    """Load models with their tokenizers, steps of a training in their order.

    Args:
        checkpoints: as for `load_model`; or `checkpoint-N` folders of a training, whose tokenizer stands in its folder.

    Raises:
        UserError: as in `load_model`, and for steps of several trainings together.
    """
    steps = [_step(checkpoint) for checkpoint in checkpoints]
    if None not in steps and len(checkpoints) > 1:
        if len({Path(checkpoint).resolve().parent for checkpoint in checkpoints}) > 1:
            raise UserError("CHECKPOINT: steps of several trainings; give those of one, or whole trainings")
        checkpoints = sorted(checkpoints, key=lambda checkpoint: _step(checkpoint) or 0)
        labels = [f"step {_step(checkpoint):,}" for checkpoint in checkpoints]
    else:
        labels = model_labels(checkpoints)
    return [_load(checkpoint, label, device) for checkpoint, label in zip(checkpoints, labels, strict=True)]


def _step(checkpoint: str) -> int | None:
    found = STEP.fullmatch(Path(checkpoint).name)
    return int(found[1]) if found else None


def _load(checkpoint: str, label: str, device: torch.device) -> Subject:
    model = load_model(checkpoint)
    step = _step(checkpoint)
    training = Path(checkpoint).resolve().parent.parent
    has_own = step is None or (Path(checkpoint) / "tokenizer.json").exists()
    tokenizer = load_tokenizer(checkpoint if has_own else training)
    return Subject(label, to_device(model, device).eval(), tokenizer, step)
