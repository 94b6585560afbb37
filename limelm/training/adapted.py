"""Models of a recipe that starts from a pretrained one: with routers, a LoRA or a scale put into it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from limelm.adapters import attach, attachment_of, save_adapter, set_trainable
from limelm.adapters.parameters import lora_parameters
from limelm.adapters.routers import ATTACHED_ROUTERS, AdapterConfig
from limelm.errors import UserError
from limelm.extras import import_peft
from limelm.loading import context_length, load_adapter_config, load_config, load_model
from limelm.models.flops import ModelCost, count_cost
from limelm.records import Count, Positive, PositiveFloat, unknown_field

NO_ROUTERS, NOTHING = "none", "nothing"
TRAINED = "trained.safetensors"
SAMPLES, SAMPLE_BYTES = 64, 2**16  # of a base's files: enough to tell it from another, and read in no time


@dataclass(frozen=True)
class AdaptedModel:
    """The parts that are put into the pretrained model, and the parameters that are trained.

    Attributes:
        attach: a routing of `limelm.attach`, or "none".
        trains: see `limelm.set_trainable`; or "nothing", to measure the model as it is.
        share_kv, routing_sources: see `limelm.attach`.
        adapter_learning_rate: of routers and LoRA; None takes the recipe's `router_learning_rate`.
        lora_rank, lora_targets, lora_layers: of the LoRA that "lora" trains; no `lora_layers` are all.
    """

    attach: str
    trains: Literal["routers", "kv", "lora", "all", "nothing"] = "routers"
    share_kv: bool = True
    routing_sources: dict[str, int] | None = None
    adapter_learning_rate: PositiveFloat | None = None
    lora_rank: Positive = 8
    lora_targets: tuple[str, ...] = ("k_proj", "v_proj")
    lora_layers: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        if self.attach not in (NO_ROUTERS, *ATTACHED_ROUTERS):
            raise UserError(f"attach={self.attach!r} is unknown; allowed: {NO_ROUTERS}, {', '.join(ATTACHED_ROUTERS)}")
        if self.is_attached:
            AdapterConfig(self.attach, self.share_kv, self.routing_sources)
        elif self.trains in ("routers", "kv"):
            raise UserError(f"trains={self.trains!r} needs routers, not attach='none'; allowed: lora, all, nothing")

    @property
    def is_attached(self) -> bool:
        """Whether anything is put into the attention layers."""
        return self.attach != NO_ROUTERS

    @property
    def routes(self) -> bool:
        """Whether a layer reads earlier ones."""
        return self.is_attached and ATTACHED_ROUTERS[self.attach].routes


def build_adapted(base: str, spec: AdaptedModel, precision: str) -> PreTrainedModel:
    """Build the pretrained model with the parts that are put into it, before training.

    All weights are float32, but for those that stay frozen in a training in bf16: these keep their own type.

    Raises:
        UserError: for a base that cannot be read, or into which it cannot be put.
    """
    model = load_model(base)
    if precision == "fp32" or spec.trains in ("kv", "all"):
        model = model.float()
    if spec.is_attached:
        attach(model, spec.attach, spec.share_kv, spec.routing_sources)
    if spec.trains == "lora":
        _add_lora(model, spec)
    _choose(model, spec)
    return model


def adapted_cost(config: PreTrainedConfig, spec: AdaptedModel, sequence_length: int) -> ModelCost:
    """Count the adapted model's costs without its weights, a LoRA left out.

    Raises:
        UserError: for a family to which the routers cannot be attached, or a LoRA for what it does not have.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if spec.trains == "lora":
        _check_lora(model, spec)
    if spec.is_attached:
        attach(model, spec.attach, spec.share_kv, spec.routing_sources)
    return count_cost(model, sequence_length)


def check_adapted(base: str, sequence_length: int) -> PreTrainedConfig:
    """Load the pretrained model's configuration, and refuse sequences that it cannot read.

    Raises:
        UserError: where it is not named, cannot be read, or has a shorter context.
    """
    if not base:
        raise UserError("names no pretrained model to start from; give --from MODEL")
    if load_adapter_config(base) is not None:
        raise UserError(f"{base}: an adapter, or a model with attached routers; start from the model that they are for")
    config = load_config(base)
    context = context_length(config)
    if context is not None and context < sequence_length:
        raise UserError(f"{base}: its context of {context} tokens is less than data.sequence_length={sequence_length}")
    return config


def describe_base(base: str) -> dict[str, str]:
    """A pretrained model's identity, wherever it lies: its name and, for a folder, a hash of samples of its weights."""
    folder = Path(base)
    if not folder.is_dir():
        return {"base": base}
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as stream:
            for number in range(SAMPLES):
                stream.seek(size * number // SAMPLES)
                digest.update(stream.read(SAMPLE_BYTES))
    return {"base": folder.resolve().name, "base_sha256": digest.hexdigest()}


def save_trained(model: PreTrainedModel, folder: Path) -> None:
    """Write the weights that are trained, by name, for a training to go on from."""
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in _trained(model).items()}
    save_file(tensors, folder / TRAINED)


def load_trained(model: PreTrainedModel, folder: Path) -> None:
    """Read what `save_trained` wrote.

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


def save_adapted(model: PreTrainedModel, spec: AdaptedModel, folder: Path) -> None:
    """Export the trained model for use: as an adapter or, without routers, as PEFT's LoRA or a checkpoint."""
    if attachment_of(model) is not None:
        save_adapter(model, folder)
    elif spec.trains != NOTHING:
        model.save_pretrained(folder)


def trainable_parameters(model: nn.Module) -> int:
    """The number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _choose(model: PreTrainedModel, spec: AdaptedModel) -> None:
    if spec.trains == NOTHING:
        model.requires_grad_(False)
    elif spec.is_attached:
        set_trainable(model, spec.trains)
    elif spec.trains == "lora":
        model.requires_grad_(False)
        for parameter in lora_parameters(model):
            parameter.requires_grad_(True)


def _check_lora(model: PreTrainedModel, spec: AdaptedModel) -> None:
    import_peft()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for target in spec.lora_targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            known = {name.rpartition(".")[2] for name in names}
            raise UserError(f"lora_targets: {unknown_field(target, known, 'projection')}")
    layers = model.config.get_text_config().num_hidden_layers
    for layer in spec.lora_layers:
        if layer >= layers:
            raise UserError(f"lora_layers: there is no layer {layer}; allowed: 0 to {layers - 1}")


def _add_lora(model: PreTrainedModel, spec: AdaptedModel) -> None:
    peft = import_peft()
    config = peft.LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_rank,
        target_modules=list(spec.lora_targets),
        layers_to_transform=list(spec.lora_layers) or None,
    )
    model.add_adapter(config)
