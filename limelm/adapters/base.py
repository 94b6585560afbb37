"""What tells the model that routers are attached to from another, and its weights from changed ones."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

ROUTER = "router"
ATTENTIONS = ("self_attn", "attention", "attn", "self_attention")
SAMPLED = 2**16  # entries of each parameter, evenly spread


@dataclass(frozen=True)
class Digest:
    """What a parameter's shape and values are.

    Attributes:
        rounded: of its values as bfloat16, so that it is the same in whatever type a model is loaded.
        exact: of its values in their own type, with which small changes show.
    """

    rounded: str
    exact: str
    dtype: torch.dtype

    def is_same(self, other: "Digest") -> bool:
        """Whether the values are, as far as their types allow to tell."""
        return self.exact == other.exact if self.dtype == other.dtype else self.rounded == other.rounded


#: By parameter name.
Digests = dict[str, Digest]


@dataclass(frozen=True)
class BaseIdentity:
    """A model without its routers.

    Attributes:
        sha256: over every parameter's name and digest.
    """

    model_type: str
    parameters: int
    sha256: str


def plain_model(model: nn.Module) -> Any:
    """The Hugging Face model itself, where PEFT has put a model of its own around it."""
    return model.get_base_model() if is_peft_model(model) else model  # type: ignore[operator]


def is_peft_model(model: nn.Module) -> bool:
    """Whether it is PEFT's model around another."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def is_of_router(parts: list[str]) -> bool:
    """Whether a name, in its parts, is of an attention's router; a mixture of experts has others."""
    return any(part == ROUTER and before in ATTENTIONS for before, part in pairwise(parts))


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What PEFT has put in as LoRA; empty where there is none."""
    return [parameter for name, parameter in model.named_parameters() if ".lora_" in name]


def whole(tensor: Tensor) -> Tensor:
    """Of a tensor that is sharded over ranks (a DTensor) the whole, on every rank."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's own parameters under the names that they have without routers and PEFT's modules."""
    for name, parameter in plain_model(model).named_parameters():
        parts = name.split(".")
        if is_of_router(parts) or "modules_to_save" in parts or any(part.startswith("lora_") for part in parts):
            continue
        yield ".".join(part for part in parts if part not in ("base_layer", "original_module")), parameter


def digest_parameters(model: nn.Module) -> Digests:
    """Of the model's own parameters; those on the meta device have none."""
    return {name: _digest(parameter) for name, parameter in base_parameters(model) if not parameter.is_meta}


def identify_base(model: PreTrainedModel, digests: Digests) -> BaseIdentity:
    """Who the model is, by its digests."""
    parameters = sum(parameter.numel() for _, parameter in base_parameters(model))
    content = json.dumps(sorted((name, digest.rounded) for name, digest in digests.items())).encode()
    return BaseIdentity(model.config.model_type, parameters, hashlib.sha256(content).hexdigest())


def _digest(parameter: Tensor) -> Digest:
    values = whole(parameter.detach()).flatten()
    stride = -(-values.numel() // SAMPLED) | 1  # odd, so as not to walk down one column of a matrix
    sample = values[::stride].cpu()
    rounded, exact = (
        hashlib.sha256(f"{tuple(parameter.shape)}".encode() + kind.contiguous().view(torch.uint8).numpy().tobytes())
        for kind in (sample.to(torch.bfloat16), sample)
    )
    return Digest(rounded.hexdigest()[:16], exact.hexdigest()[:16], parameter.dtype)
