"""Models of a recipe that start from a pretrained one: with routers, a LoRA or a scale put into it, or nothing."""

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)
from transformers.pytorch_utils import Conv1D

from limelm.adapters import attach, attachment_of, set_trainable
from limelm.adapters.files import write_adapter
from limelm.adapters.kinds import ATTACHED, AdapterConfig
from limelm.adapters.parameters import lora_parameters
from limelm.errors import UserError
from limelm.extras import import_peft
from limelm.loading import context_length, load_adapter_config, load_config, load_model, load_tokenizer
from limelm.models.card import Training, lora_card, model_card, write_card
from limelm.models.flops import ModelCost, count_cost
from limelm.recipes.settings import TrainingRecipe
from limelm.recipes.subject import ModelTable, Subject
from limelm.recipes.trained_weights import load_trained_weights
from limelm.records import Count, Positive, PositiveFloat, build, unknown_field
from limelm.tokenizers import check_tokenizer

NO_ROUTERS, NOTHING = "none", "nothing"
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
        if self.attach not in (NO_ROUTERS, *ATTACHED):
            raise UserError(f"attach={self.attach!r} is unknown; allowed: {NO_ROUTERS}, {', '.join(ATTACHED)}")
        if self.is_attached:
            AdapterConfig(self.attach, self.share_kv, self.routing_sources)
        elif self.trains in ("routers", "kv"):
            raise UserError(f"trains={self.trains!r} needs routers, not attach='none'; allowed: lora, all, nothing")

    @property
    def is_attached(self) -> bool:
        """Whether anything is put into the model."""
        return self.attach != NO_ROUTERS


@dataclass(frozen=True)
class Adapted(Subject):
    """A pretrained model with something put into it, of which a part is trained.

    Attributes:
        base: the pretrained model, a folder or hub name; "" while it is not named.
        parts: what is put into it, and what is trained.
    """

    base: str
    parts: AdaptedModel

    saves_trained_weights_only = True
    can_be_sharded = False

    @classmethod
    def read(cls, table: ModelTable) -> "Adapted":
        parts = build(AdaptedModel, table.own, f"recipe {table.recipe}", f"models.{table.name}")
        return cls(table.where, table.label, table.base, parts)

    @classmethod
    def override_places(cls, content: dict[str, Any], model: str | None) -> dict[str, dict[str, Any]]:
        own = dict.fromkeys((field.name for field in fields(AdaptedModel)), content["models"][model]) if model else {}
        return {"base": content, **own}

    @property
    def is_trained(self) -> bool:
        return self.parts.trains != NOTHING

    def identity(self) -> dict[str, Any]:
        parts = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.parts).items()}
        return {"parts": parts, **describe_base(self.base)}

    def check(self, sequence_length: int, vocab_size: int) -> None:
        try:
            self.cost(_load_config(self.base, sequence_length), sequence_length)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
        instead = f"prepare them with: limelm data prepare ... --tokenizer {self.base}"
        check_tokenizer(data, tokenizer, load_tokenizer(self.base), self.base, instead)

    def build(self, tokenizer: PreTrainedTokenizerFast, training: TrainingRecipe) -> PreTrainedModel:
        """Load the pretrained model and put the parts into it.

        All weights are float32, but for those that stay frozen in a training in bf16: these keep their own type.

        Raises:
            UserError: for a base that cannot be read, or into which it cannot be put.
        """
        set_seed(training.seed)
        model = load_model(self.base)
        if training.precision == "fp32" or self.parts.trains in ("kv", "all"):
            model = model.float()
        self._attach(model)
        if self.parts.trains == "lora":
            _add_lora(model, self.parts)
        _choose(model, self.parts)
        return model

    def load(self, checkpoint: Path, tokenizer: PreTrainedTokenizerFast, training: TrainingRecipe) -> PreTrainedModel:
        model = self.build(tokenizer, training)
        load_trained_weights(model, checkpoint)
        return model

    def export(self, model: PreTrainedModel, folder: Path, training: Training) -> None:
        """Write an adapter or, without routers, PEFT's LoRA or a checkpoint; nothing where nothing is trained."""
        if attachment_of(model) is not None:
            write_adapter(model, folder, training)
        elif self.is_trained:
            is_lora = self.parts.trains == "lora"
            card = lora_card(self.base, training) if is_lora else model_card(model.config, training, self.base)
            write_card(folder, card)
            model.save_pretrained(folder)

    def cost(self, config: PreTrainedConfig, sequence_length: int) -> ModelCost:
        """Count the costs without the model's weights, a LoRA left out.

        Raises:
            UserError: for a family to which the routers cannot be attached, or a LoRA for what it does not have.
        """
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        if self.parts.trains == "lora":
            _check_lora(model, self.parts)
        self._attach(model)
        return count_cost(model, sequence_length)

    def router_learning_rate(self, training: TrainingRecipe) -> float:
        return self.parts.adapter_learning_rate or training.router_learning_rate

    def trainable_parameters(self, model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    def _attach(self, model: PreTrainedModel) -> None:
        if self.parts.is_attached:
            attach(model, self.parts.attach, self.parts.share_kv, self.parts.routing_sources)


def _load_config(base: str, sequence_length: int) -> PreTrainedConfig:
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
