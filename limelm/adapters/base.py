"""What tells the model that routers are attached to from another, and its weights from changed ones."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

ROUTER = "router"
SAMPLED = 2**16  # entries of each parameter, evenly spread

#: By parameter name, a digest of its shape and values.
Digests = dict[str, str]


@dataclass(frozen=True)
class BaseIdentity:
    """A model without its routers.

    Attributes:
        sha256: over every parameter's name and digest.
    """

    model_type: str
    parameters: int
    sha256: str


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's own parameters under the names that they have without routers and PEFT's modules."""
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if ROUTER in parts or "modules_to_save" in parts or any(part.startswith("lora_") for part in parts):
            continue
        yield ".".join(part for part in parts if part not in ("base_layer", "original_module")), parameter


def digest_parameters(model: nn.Module) -> Digests:
    """Digests of the model's own parameters; those on the meta device have none.

    Values count as bfloat16, so that a model has the same in every dtype.
    """
    return {name: _digest(parameter) for name, parameter in base_parameters(model) if not parameter.is_meta}


def identify_base(model: PreTrainedModel, digests: Digests) -> BaseIdentity:
    """Who the model is, by its digests."""
    parameters = sum(parameter.numel() for _, parameter in base_parameters(model))
    content = json.dumps(sorted(digests.items())).encode()
    return BaseIdentity(model.config.model_type, parameters, hashlib.sha256(content).hexdigest())


def _digest(parameter: Tensor) -> str:
    values = parameter.detach()
    values = (values.full_tensor() if hasattr(values, "full_tensor") else values).flatten()
    stride = -(-values.numel() // SAMPLED) | 1  # odd, so as not to walk down one column of a matrix
    sample = values[::stride].to(torch.bfloat16).cpu().view(torch.int16)
    return hashlib.sha256(f"{tuple(parameter.shape)}".encode() + sample.numpy().tobytes()).hexdigest()[:16]
