"""Recipes: all there is to say about an experiment, as checked values.

A recipe's `architecture` holds the fields that all its models share, `models` what sets each apart, `data` and
`training` the rest of what decides the result, `engine` how a machine gets there.
"""

import difflib
import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, LlamaConfig

from limelm.data import PRESETS
from limelm.data.synthetic import operands_of, task_vocab_size
from limelm.errors import UserError
from limelm.models import MODEL_TYPES
from limelm.models.flops import model_cost
from limelm.training.adapted import NOTHING, AdaptedModel, adapted_cost, check_adapted

PRECISIONS = ("fp32", "bf16")
SHARDINGS = ("none", "fsdp")
MOST_NAMED = 40  # keys in one error
TOKENIZER_FIELDS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class DataRecipe:
    """Which text, and how it becomes sequences."""

    preset: str
    sequence_length: int
    vocab_size: int
    validation_fraction: float

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise UserError(f"data.preset={self.preset!r} is unknown; allowed: {', '.join(PRESETS)}")
        _require(
            self,
            "data",
            at_least={"sequence_length": 2, "vocab_size": 1},
            above={"validation_fraction": 0},
            below={"validation_fraction": 1},
        )


@dataclass(frozen=True)
class ProblemRecipe:
    """Which reasoning problems, made from a seed of their own (`limelm.data.synthetic`).

    Attributes:
        task: "arithmetic-N" with N operands, or "prosqa".
        worked_steps: whether a model is trained to write the steps before the answer.
        train_problems, test_problems: how many of each; no problem is on both sides.
        test_file: published ProsQA problems to test on instead of generated ones, or "".
        sequence_length: room for the longest problem with its steps.
    """

    task: str
    worked_steps: bool
    train_problems: int
    test_problems: int
    test_file: str
    sequence_length: int

    def __post_init__(self):
        operands_of(self.task)
        _require(self, "data", {"train_problems": 1, "test_problems": 1, "sequence_length": 2}, {}, {})

    @property
    def vocab_size(self) -> int:
        """Of the task's own words; those of a `test_file` may be other ones, and as many."""
        return task_vocab_size(self.task)


@dataclass(frozen=True)
class TrainingRecipe:
    """Optimiser and schedule (the paper's Table 3)."""

    steps: int
    batch_size: int
    learning_rate: float
    router_learning_rate: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    warmup_steps: int
    min_lr_ratio: float
    max_grad_norm: float
    precision: str
    eval_steps: int
    seed: int

    def __post_init__(self):
        _require(
            self,
            "training",
            at_least={"steps": 1, "batch_size": 1, "eval_steps": 1, "warmup_steps": 0, "seed": 0}
            | {"weight_decay": 0, "min_lr_ratio": 0, "adam_beta1": 0, "adam_beta2": 0},
            above={"learning_rate": 0, "router_learning_rate": 0, "adam_epsilon": 0, "max_grad_norm": 0},
            below={"adam_beta1": 1, "adam_beta2": 1, "seed": 2**32},
        )
        if self.precision not in PRECISIONS:
            raise UserError(f"training.precision={self.precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class EngineRecipe:
    """How a machine gets there. Nothing here changes the result but for rounding, so it may differ when a run goes on.

    Attributes:
        micro_batch_size: sequences per process and forward, at most; gradients of several make the batch.
        sharding: of weights, gradients and optimiser over processes: "none" (DDP keeps a copy in each), or "fsdp"
            (FSDP2, one unit per layer).
        activation_checkpointing: keep only the layers' inputs, and compute the rest again in the backward.
        compile: run `torch.compile` with its default backend.
        save_steps: between two checkpoints.
        keep_checkpoints: how many of the newest to keep.
    """

    micro_batch_size: int
    sharding: str
    activation_checkpointing: bool
    compile: bool
    save_steps: int
    keep_checkpoints: int

    def __post_init__(self):
        _require(self, "engine", {"micro_batch_size": 1, "save_steps": 1, "keep_checkpoints": 1}, {}, {})
        if self.sharding not in SHARDINGS:
            raise UserError(f"engine.sharding={self.sharding!r} is unknown; allowed: {', '.join(SHARDINGS)}")


@dataclass(frozen=True)
class Recipe:
    """One experiment: several models, trained on the same data in the same order.

    Attributes:
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

    def with_training(self, **changes: Any) -> "Recipe":
        """The recipe with other training values."""
        return replace(self, training=replace(self.training, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are written into a run."""
        return {**asdict(self), "compare": list(self.compare)}

    def select(self, names: list[str] | None) -> list[str]:
        """The models to train: `names` in the recipe's order ("all" for every one), by default `compare`.

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
        """What people are shown for a model's name."""
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
        try:
            model_cost(config, length)
        except Exception as error:  # whatever a wrong shape or name may raise
            raise UserError(f"recipe {self.name}, model {name}: cannot be built ({error!r})") from error

    def _check_adapted(self, name: str) -> None:
        assert self.base is not None
        length, adapted = self.data.sequence_length, self.adapted(name)
        try:
            adapted_cost(check_adapted(self.base, length), adapted, length)
        except UserError as error:
            raise UserError(f"recipe {self.name}, model {name}: {error}") from error

    def is_trained(self, name: str) -> bool:
        """Whether a model is trained, and not only measured as it is."""
        return self.base is None or self.adapted(name).trains != NOTHING

    def adapted(self, name: str) -> AdaptedModel:
        """One of the models that start from the pretrained one.

        Raises:
            UserError: for a value that is not allowed.
        """
        try:
            return AdaptedModel(**{key: value for key, value in self.models[name].items() if key != "label"})
        except (UserError, ValueError) as error:
            raise UserError(f"recipe {self.name}, model {name}: {error}") from error

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
                raise UserError(f"{where}: {unknown_key(key, known)}")
            if key in TOKENIZER_FIELDS:
                raise UserError(f"{where}: {key} comes from the tokenizer; leave it out")
        try:
            return AutoConfig.for_model(model_type, **wanted, **ids)
        except (ValueError, TypeError, StrictDataclassError) as error:
            reason = error.__cause__ or error
            raise UserError(f"{where}: {reason}") from error


def config_fields(model_type: str) -> set[str]:
    """The fields of a model type's configuration."""
    return {field.name for field in fields(type(AutoConfig.for_model(model_type)))}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that nothing is known of."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"unknown key {key!r}; did you mean {near[0]!r}?"
    return f"unknown key {key!r}" + (f"; allowed: {', '.join(known)}" if len(known) <= MOST_NAMED else "")


def _require(
    recipe: Any, section: str, at_least: Mapping[str, float], above: Mapping[str, float], below: Mapping[str, float]
) -> None:
    for limits, holds, words in (
        (at_least, operator.ge, "at least"),
        (above, operator.gt, "more than"),
        (below, operator.lt, "less than"),
    ):
        for name, limit in limits.items():
            value = getattr(recipe, name)
            if not holds(value, limit):
                raise UserError(f"{section}.{name}={value} must be {words} {limit}")
