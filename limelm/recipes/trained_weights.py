"""The trained weights of a model whose other weights stay as they are: all that its checkpoints hold."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.errors import UserError

TRAINED = "trained.safetensors"


def save_trained_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write the weights that are trained, by name, for a training to go on from."""
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in _trained(model).items()}
    save_file(tensors, folder / TRAINED)


def load_trained_weights(model: PreTrainedModel, folder: Path) -> None:
    """Read what `save_trained_weights` wrote.

    Raises:
        UserError: where it was written for another model.
    """
    try:
        tensors = load_file(folder / TRAINED)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / TRAINED}: cannot be read ({error})") from error
    trained = _trained(model)
    for name in sorted(tensors.keys() ^ trained.keys()):
        raise UserError(f"{folder / TRAINED}: belongs to another training ({name})")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
