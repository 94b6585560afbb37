"""Models of a recipe that are trained from scratch, side by side with a plain LLaMA of the same shape."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from limelm.errors import UserError
from limelm.loading import load_model
from limelm.models import MODEL_TYPES, LimeConfig
from limelm.models.card import Training, model_card, write_card
from limelm.models.flops import ModelCost, model_cost
from limelm.recipes.settings import TrainingRecipe
from limelm.recipes.subject import ModelTable, Subject
from limelm.records import unknown_field

TOKENIZER_FIELDS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
# What no machine of today trains: refused before anything is built, which alone would take minutes.
MOST_LAYERS, MOST_PARAMETERS = 2**12, 10**14


@dataclass(frozen=True)
class FromScratch(Subject):
    """A model that starts from random weights.

    Attributes:
        architecture: the fields of its configuration: those of all the recipe's models, then its own.
        shape: those of a plain LLaMA of the same shape.
    """

    model_type: str
    architecture: dict[str, Any]
    shape: dict[str, Any]

    @classmethod
    def read(cls, table: ModelTable) -> "FromScratch":
        """Read a model's table; what it leaves open is said by the recipe's `architecture`."""
        shared = {"max_position_embeddings": table.sequence_length, **table.architecture}
        where, model_type = table.where, table.own.get("model_type")
        own = {key: value for key, value in table.own.items() if key != "model_type"}
        if model_type is None:
            raise UserError(f"{where}: no value for model_type; allowed: {', '.join(MODEL_TYPES)}")
        if model_type not in MODEL_TYPES:
            raise UserError(f"{where}: model_type={model_type!r} is unknown; allowed: {', '.join(MODEL_TYPES)}")
        _check_names(where, shared | own, config_fields(model_type))
        shape = shared | {key: value for key, value in own.items() if key in config_fields("llama")}
        return cls(where, table.label, model_type, shared | own, shape)

    @classmethod
    def override_places(cls, content: dict[str, Any], model: str | None) -> dict[str, dict[str, Any]]:
        shape = config_fields("llama") - {"vocab_size"}
        places = dict.fromkeys(shape, content["architecture"])
        if model:
            own = content["models"][model]
            of_model = config_fields(own["model_type"]) if own.get("model_type") in MODEL_TYPES else set()
            places |= dict.fromkeys(of_model - shape | own.keys() & shape, own)
        return places

    def identity(self) -> dict[str, Any]:
        return {"architecture": {**self.architecture, "model_type": self.model_type}}

    def check(self, sequence_length: int, vocab_size: int) -> None:
        config = self.config(vocab_size)
        if config.max_position_embeddings < sequence_length:
            raise UserError(
                f"{self.where}: max_position_embeddings={config.max_position_embeddings} is less than "
                f"data.sequence_length={sequence_length}"
            )
        self._refuse_absurd(config)
        try:
            model_cost(config, sequence_length)
        except Exception as error:  # whatever a wrong shape or name may raise
            said = f"{type(error).__name__}: {error}"
            raise UserError(f"{self.where}: a model of this shape cannot run ({said})") from error

    def config(self, vocab_size: int, **tokens: int | None) -> LlamaConfig:
        """The model's configuration, with the vocabulary and special tokens of its data.

        Raises:
            UserError: for an unknown field, or values that the configuration refuses.
        """
        return self._config(self.model_type, self.architecture, vocab_size=vocab_size, **tokens)

    def baseline(self, vocab_size: int, **tokens: int | None) -> LlamaConfig:
        """The configuration of a plain LLaMA of the model's shape."""
        return self._config("llama", self.shape, vocab_size=vocab_size, **tokens)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
        """Take any: the model gets the vocabulary of its data."""

    def to_plan(self, vocab_size: int) -> tuple[LlamaConfig, LlamaConfig]:
        return self.config(vocab_size), self.baseline(vocab_size)

    def build(self, tokenizer: PreTrainedTokenizerFast, training: TrainingRecipe) -> PreTrainedModel:
        """Build the model; parameters that it shares with LLaMA by name and shape start at LLaMA's values.

        So the models of a recipe differ in what sets them apart and not in their luck.
        """
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        set_seed(training.seed)
        model = AutoModelForCausalLM.from_config(self.config(len(tokenizer), **ids))
        set_seed(training.seed)
        baseline = AutoModelForCausalLM.from_config(self.baseline(len(tokenizer), **ids)).state_dict()
        own = model.state_dict()
        shared = {key: value for key, value in baseline.items() if key in own and own[key].shape == value.shape}
        model.load_state_dict(shared, strict=False)
        model.generation_config = GenerationConfig(**ids, pad_token_id=tokenizer.eos_token_id)
        return model

    def load(self, checkpoint: Path, tokenizer: PreTrainedTokenizerFast, training: TrainingRecipe) -> PreTrainedModel:
        return load_model(checkpoint)

    def export(self, model: PreTrainedModel, folder: Path, training: Training) -> None:
        write_card(folder, model_card(model.config, training))
        model.save_pretrained(folder)

    def cost(self, config: PreTrainedConfig, sequence_length: int) -> ModelCost:
        return model_cost(config, sequence_length)

    def _config(self, model_type: str, wanted: dict[str, Any], **ids: int | None) -> LlamaConfig:
        try:
            if model_type == "llama":
                LimeConfig(**wanted, routing="none", **ids)  # says what is wrong in one line, as LlamaConfig does not
            return AutoConfig.for_model(model_type, **wanted, **ids)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise UserError(f"{self.where}: {error}") from error

    def _refuse_absurd(self, config: LlamaConfig) -> None:
        layers, width = config.num_hidden_layers, config.hidden_size
        if layers > MOST_LAYERS:
            raise UserError(f"{self.where}: num_hidden_layers={layers} must be at most {MOST_LAYERS}")
        parameters = layers * width * (2 * width + 3 * config.intermediate_size) + config.vocab_size * width
        if parameters > MOST_PARAMETERS:
            raise UserError(
                f"{self.where}: hidden_size={width}, intermediate_size={config.intermediate_size} and "
                f"num_hidden_layers={layers} make more than {MOST_PARAMETERS:.0e} parameters"
            )


def _check_names(where: str, names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{where}: {unknown_field(name, known)}")
        if name in TOKENIZER_FIELDS:
            raise UserError(f"{where}: {name} comes from the tokenizer; leave it out")


def config_fields(model_type: str) -> set[str]:
    """The fields of a model type's configuration."""
    return {field.name for field in fields(type(AutoConfig.for_model(model_type)))}
