"""Recipes: everything that describes an experiment, as checked values.

A recipe's `architecture` holds the fields that all its models share, `models` what sets each apart, `data` and
`training` the rest of what decides the result, `engine` how a machine gets there.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, LlamaConfig

from limelm.data.presets import PRESETS
from limelm.data.synthetic.tasks import check_task, task_vocab_size
from limelm.errors import UserError
from limelm.models import MODEL_TYPES, LimeConfig
from limelm.models.flops import model_cost
from limelm.records import (
    Count,
    NotNegative,
    Positive,
    PositiveFloat,
    at_least,
    at_most,
    build,
    less_than,
    more_than,
    unknown_field,
)
from limelm.training.adapted import NOTHING, AdaptedModel, adapted_cost, check_adapted, describe_base

TOKENIZER_FIELDS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
# What no machine of today trains: refused before anything is built, which alone would take minutes.
MOST_TOKENS, MOST_STEPS, MOST_LAYERS, MOST_PARAMETERS = 2**24, 10**9, 2**12, 10**14
SEEDS = 2**32  # of a random generator

Length = Annotated[int, at_least(2), at_most(MOST_TOKENS)]
Size = Annotated[int, at_least(1), at_most(2**31 - 1)]
Steps = Annotated[int, at_least(1), at_most(MOST_STEPS)]
Beta = Annotated[float, at_least(0), less_than(1)]


@dataclass(frozen=True)
class DataRecipe:
    """The text of a recipe, and how it becomes sequences."""

    preset: str
    sequence_length: Length
    vocab_size: Size
    validation_fraction: Annotated[float, more_than(0), less_than(1)]

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise UserError(f"preset={self.preset!r} is unknown; allowed: {', '.join(PRESETS)}")


@dataclass(frozen=True)
class ProblemRecipe:
    """The reasoning problems of a recipe, made from a seed of their own (`limelm.data.synthetic`).

    Attributes:
        task: "arithmetic-N" with N operands, or "prosqa".
        worked_steps: whether a model is trained to write the steps before the answer.
        train_problems, test_problems: how many of each; no problem is on both sides.
        test_file: published ProsQA problems to test on instead of generated ones, or "".
        sequence_length: room for the longest problem with its steps.
    """

    task: str
    worked_steps: bool
    train_problems: Size
    test_problems: Size
    test_file: str
    sequence_length: Length

    def __post_init__(self):
        check_task(self.task, self.worked_steps, self.train_problems, self.test_problems, self.sequence_length)

    @property
    def vocab_size(self) -> int:
        """The vocabulary size of the task's own words; a `test_file` may have other words, but as many."""
        return task_vocab_size(self.task)


@dataclass(frozen=True)
class TrainingRecipe:
    """Optimizer and schedule (the paper's Table 3)."""

    steps: Steps
    batch_size: Size
    learning_rate: PositiveFloat
    router_learning_rate: PositiveFloat
    weight_decay: NotNegative
    adam_beta1: Beta
    adam_beta2: Beta
    adam_epsilon: PositiveFloat
    warmup_steps: Count
    min_lr_ratio: Annotated[float, at_least(0), at_most(1)]
    max_grad_norm: PositiveFloat
    precision: Literal["fp32", "bf16"]
    eval_steps: Steps
    seed: Annotated[int, at_least(0), less_than(SEEDS)]


@dataclass(frozen=True)
class EngineRecipe:
    """Settings of the machine, which change a result by rounding only and may differ when a run goes on.

    Attributes:
        micro_batch_size: sequences per process and forward, at most; gradients of several make the batch.
        sharding: of weights, gradients and optimizer over processes: "none" (DDP keeps a copy in each), or "fsdp"
            (FSDP2, one unit per layer).
        activation_checkpointing: keep only the layers' inputs, and compute the rest again in the backward.
        compile: run `torch.compile` with its default backend.
        save_steps: between two checkpoints.
        keep_checkpoints: how many of the newest to keep.
    """

    micro_batch_size: Size
    sharding: Literal["none", "fsdp"]
    activation_checkpointing: bool
    compile: bool
    save_steps: Steps
    keep_checkpoints: Positive


@dataclass(frozen=True)
class Recipe:
    """One experiment: several models, trained on the same data in the same order.

    Attributes:
        seeds: how many trainings of each model, with seeds from `training.seed` upwards.
        base: the pretrained model, a folder or hub name, that all of them start from, each an `AdaptedModel` ("" while
            it is not named); None trains from scratch.
    """

    name: str
    description: str
    compare: tuple[str, ...]
    architecture: dict[str, Any]
    models: dict[str, dict[str, Any]]
    data: DataRecipe | ProblemRecipe
    training: TrainingRecipe
    engine: EngineRecipe
    base: str | None = None
    seeds: Annotated[int, at_least(1), at_most(1000)] = 1

    def __post_init__(self):
        first = self.training.seed
        if first + self.seeds > SEEDS:
            raise UserError(
                f"seeds={self.seeds} from training.seed={first} upwards: the last must be less than {SEEDS}"
            )

    def of_seed(self, seed: int) -> "Recipe":
        """The recipe of one seed's trainings."""
        return replace(self, seeds=1, training=replace(self.training, seed=seed))

    def with_training(self, **changes: Any) -> "Recipe":
        """The recipe with other training values."""
        return replace(self, training=replace(self.training, **changes))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return {**asdict(self), "compare": list(self.compare)}

    def published(self) -> dict[str, Any]:
        """The recipe as plain values for a run's files, which others may read: paths are cut to their last name."""
        values = self.to_dict()
        if self.base is not None:
            values |= describe_base(self.base)
        if isinstance(self.data, ProblemRecipe):
            values["data"]["test_file"] = Path(self.data.test_file).name
        return values

    def select(self, names: list[str] | None) -> list[str]:
        """Select the models to train: `names` in the recipe's order ("all" for every one), by default `compare`.

        Raises:
            UserError: for a name that the recipe does not have.
        """
        if names is None:
            return list(self.compare)
        for name in names:
            if name != "all" and name not in self.models:
                raise UserError(f"--models {name}: unknown model; allowed: {', '.join(self.models)}, all")
        return [name for name in self.models if name in names or "all" in names]

    def label(self, name: str) -> str:
        """The label that people are shown for a model."""
        return self.models[name].get("label", name)

    def check_model(self, name: str) -> None:
        """Build the model on the meta device, so that a configuration that does not work is refused before any work.

        Raises:
            UserError: for a model that cannot be built or run, or that is too short for the recipe's sequences.
        """
        if self.base is not None:
            self._check_adapted(name)
            return
        config = self.model_config(name, vocab_size=self.data.vocab_size)
        length = self.data.sequence_length
        if config.max_position_embeddings < length:
            raise UserError(
                f"recipe {self.name}, model {name}: max_position_embeddings={config.max_position_embeddings} is less "
                f"than data.sequence_length={length}"
            )
        _refuse_absurd(config, f"recipe {self.name}, model {name}")
        try:
            model_cost(config, length)
        except Exception as error:  # whatever a wrong shape or name may raise
            said = f"{type(error).__name__}: {error}"
            raise UserError(f"recipe {self.name}, model {name}: a model of this shape cannot run ({said})") from error

    def _check_adapted(self, name: str) -> None:
        assert self.base is not None
        length, adapted = self.data.sequence_length, self.adapted(name)
        try:
            adapted_cost(check_adapted(self.base, length), adapted, length)
        except UserError as error:
            raise UserError(f"recipe {self.name}, model {name}: {error}") from error

    def is_trained(self, name: str) -> bool:
        """Whether a model is trained, rather than measured as it is."""
        return self.base is None or self.adapted(name).trains != NOTHING

    def adapted(self, name: str) -> AdaptedModel:
        """Describe one of the models that start from the pretrained one.

        Raises:
            UserError: for a value that is not allowed.
        """
        own = {key: value for key, value in self.models[name].items() if key != "label"}
        adapted: AdaptedModel = build(AdaptedModel, own, f"recipe {self.name}", f"models.{name}")
        return adapted

    def model_config(self, name: str, vocab_size: int, **tokens: int | None) -> LlamaConfig:
        """The configuration of one of the recipe's models.

        Raises:
            UserError: for an unknown model type or field, or values that the configuration refuses.
        """
        where = f"recipe {self.name}, model {name}"
        if self.base is not None:
            raise UserError(f"{where}: starts from a pretrained model, and has no configuration of its own")
        own = {key: value for key, value in self.models[name].items() if key not in ("label", "model_type")}
        return self._config(where, self.models[name].get("model_type"), own, vocab_size=vocab_size, **tokens)

    def baseline_config(self, name: str, vocab_size: int, **tokens: int | None) -> LlamaConfig:
        """The configuration of a plain LLaMA of the model's shape."""
        own = {key: value for key, value in self.models[name].items() if key in config_fields("llama")}
        return self._config(f"recipe {self.name}", "llama", own, vocab_size=vocab_size, **tokens)

    def _config(self, where: str, model_type: str | None, own: dict[str, Any], **ids: int | None) -> LlamaConfig:
        if model_type not in MODEL_TYPES:
            raise UserError(f"{where}: model_type={model_type!r} is unknown; allowed: {', '.join(MODEL_TYPES)}")
        wanted = {**self.architecture, **own}
        known = config_fields(model_type)
        for key in wanted:
            if key not in known:
                raise UserError(f"{where}: {unknown_field(key, known)}")
            if key in TOKENIZER_FIELDS:
                raise UserError(f"{where}: {key} comes from the tokenizer; leave it out")
        try:
            if model_type == "llama":
                LimeConfig(**wanted, routing="none", **ids)  # says what is wrong in one line, as LlamaConfig does not
            return AutoConfig.for_model(model_type, **wanted, **ids)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise UserError(f"{where}: {error}") from error


def config_fields(model_type: str) -> set[str]:
    """The fields of a model type's configuration."""
    return {field.name for field in fields(type(AutoConfig.for_model(model_type)))}


def _refuse_absurd(config: LlamaConfig, where: str) -> None:
    layers, width = config.num_hidden_layers, config.hidden_size
    if layers > MOST_LAYERS:
        raise UserError(f"{where}: num_hidden_layers={layers} must be at most {MOST_LAYERS}")
    parameters = layers * width * (2 * width + 3 * config.intermediate_size) + config.vocab_size * width
    if parameters > MOST_PARAMETERS:
        raise UserError(
            f"{where}: hidden_size={width}, intermediate_size={config.intermediate_size} and "
            f"num_hidden_layers={layers} make more than {MOST_PARAMETERS:.0e} parameters"
        )
