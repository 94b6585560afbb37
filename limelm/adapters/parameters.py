"""Which parameters of a model are its base's, the routers' and a LoRA's; and fingerprints of the base.

Fingerprints tell whether a model is the base that an adapter was made for, and whether its weights have changed.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.errors import UserError
from limelm.models.families import ATTENTIONS
from limelm.models.offload import offloaded_parameters
from limelm.records import Count, Sha256
from limelm.routing import ROUTER, whole

SAMPLED = 2**16  # entries of each parameter, evenly spread


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of a parameter's shape and values.

    Attributes:
        rounded: of its values as bfloat16, so that it is the same in whatever type a model is loaded.
        exact: of its values in their own type, with which small changes show.
        numel: how many they are.
    """

    rounded: str
    exact: str
    dtype: torch.dtype
    numel: int

    def is_same(self, other: "Fingerprint") -> bool:
        """Whether two parameters have the same values, as far as their dtypes can tell."""
        return self.exact == other.exact if self.dtype == other.dtype else self.rounded == other.rounded


#: By parameter name.
Fingerprints = dict[str, Fingerprint]


@dataclass(frozen=True)
class BaseIdentity:
    """A base model's identity, as it stands in an adapter's description.

    Attributes:
        sha256: over every parameter's name and fingerprint.
    """

    model_type: str
    parameters: Count
    sha256: Sha256


def plain_model(model: nn.Module) -> Any:
    """The Hugging Face model itself, unwrapped if PEFT has put a model of its own around it."""
    return model.get_base_model() if is_peft_model(model) else model  # type: ignore[operator]


def is_peft_model(model: nn.Module) -> bool:
    """Whether a model is PEFT's wrapper around another."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def is_of_router(parts: list[str]) -> bool:
    """Whether a parameter name, split at its dots, belongs to an attention's router (experts have routers too)."""
    return any(part == ROUTER and before in ATTENTIONS for before, part in pairwise(parts))


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that PEFT has added as LoRA; empty if there are none."""
    return [parameter for name, parameter in model.named_parameters() if ".lora_" in name]


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's own parameters under the names that they have without routers and PEFT's modules."""
    for name, parameter in plain_model(model).named_parameters():
        parts = name.split(".")
        if is_of_router(parts) or "modules_to_save" in parts or any(part.startswith("lora_") for part in parts):
            continue
        yield ".".join(part for part in parts if part not in ("base_layer", "original_module")), parameter


def base_values(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The base's values by name, also of those that accelerate keeps off the device."""
    offloaded = offloaded_parameters(model)
    tied = getattr(plain_model(model), "all_tied_weights_keys", {})
    for name, parameter in base_parameters(model):
        if id(parameter) not in offloaded:
            yield name, parameter.detach()
        elif name not in tied:  # offloaded, it is no longer one parameter with the other
            yield name, offloaded[id(parameter)]()


def router_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The routers' parameters, by their names without PEFT's modules."""
    found = {}
    for name, parameter in plain_model(model).named_parameters():
        parts = name.split(".")
        if is_of_router(parts) and "original_module" not in parts:
            skipped = parts.index("modules_to_save") if "modules_to_save" in parts else len(parts)
            found[".".join(parts[:skipped] + parts[skipped + 2 :])] = parameter
    return found


def embedding_names(model: nn.Module) -> set[str]:
    """Names of the base's parameters that have a row for each token."""
    plain = plain_model(model)
    modules = (plain.get_input_embeddings(), plain.get_output_embeddings())
    ids = {id(parameter) for module in modules if module is not None for parameter in module.parameters()}
    return {name for name, parameter in base_parameters(model) if id(parameter) in ids}


def vocabulary_rows(model: nn.Module) -> int:
    """The number of tokens that a model has embeddings for."""
    return plain_model(model).get_input_embeddings().weight.shape[0]


def fingerprint_parameters(model: nn.Module, vocabulary: int | None = None) -> Fingerprints:
    """Fingerprints of the base's parameters by name, without those on the meta device, which have no values.

    Args:
        vocabulary: of embeddings take so many rows, as the model had before tokens were added.
    """
    cut = set() if vocabulary is None else embedding_names(model)
    return {
        name: _fingerprint(name, values[:vocabulary] if name in cut else values)
        for name, values in base_values(model)
        if not values.is_meta
    }


def identify_base(model: PreTrainedModel, fingerprints: Fingerprints) -> BaseIdentity:
    """The base model's identity: its type, its size, and one hash over the fingerprints of all parameters."""
    parameters = sum(fingerprint.numel for fingerprint in fingerprints.values())
    content = json.dumps(sorted((name, fingerprint.rounded) for name, fingerprint in fingerprints.items())).encode()
    return BaseIdentity(model.config.model_type, parameters, hashlib.sha256(content).hexdigest())


def _fingerprint(name: str, parameter: Tensor) -> Fingerprint:
    try:
        values = whole(parameter).flatten()
        stride = -(-values.numel() // SAMPLED) | 1  # odd, so as not to walk down one column of a matrix
        sample = values[::stride].cpu()
        rounded, exact = (
            hashlib.sha256(f"{tuple(parameter.shape)}".encode() + kind.contiguous().view(torch.uint8).numpy().tobytes())
            for kind in (sample.to(torch.bfloat16), sample)
        )
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{name}: weights of type {type(parameter).__name__} cannot be read; attach routers before they are "
            "quantized"
        ) from error
    return Fingerprint(rounded.hexdigest()[:16], exact.hexdigest()[:16], parameter.dtype, values.numel())
