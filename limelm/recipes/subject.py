"""One protocol for every kind of model that is trained, from its first weights to the files that people use."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from limelm.models.card import Training
from limelm.models.flops import ModelCost
from limelm.recipes.settings import TrainingRecipe


@dataclass(frozen=True)
class ModelTable:
    """One model's table of a recipe, and what the recipe says for all of its models.

    Attributes:
        recipe, name: of the recipe, and of the model in it.
        own: the table, without the label.
        architecture, base: the recipe's.
        sequence_length: of the recipe's data.
    """

    recipe: str
    name: str
    label: str
    own: dict[str, Any]
    architecture: dict[str, Any]
    sequence_length: int
    base: str

    @property
    def where(self) -> str:
        """The recipe and the model, for errors."""
        return f"recipe {self.recipe}, model {self.name}"


@dataclass(frozen=True)
class Subject(ABC):
    """One model of a recipe. What sets the kinds of models apart is in their classes, and nowhere else.

    Attributes:
        where: the recipe and the model, said in errors.
        label: what people are shown.
        is_trained: whether it is trained, rather than measured as it is.
        saves_trained_weights_only: whether a training's checkpoints hold the trained weights alone.
        can_be_sharded: whether a training may share its weights over processes.
    """

    where: str
    label: str

    saves_trained_weights_only: ClassVar[bool] = False
    can_be_sharded: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def read(cls, table: ModelTable) -> "Subject":
        """Read one model's table of a recipe.

        Raises:
            UserError: for an unknown field, or a value that is not allowed.
        """

    @classmethod
    @abstractmethod
    def override_places(cls, content: dict[str, Any], model: str | None) -> dict[str, dict[str, Any]]:
        """Find the table of a recipe's plain values in which each field of the models may be overridden.

        Args:
            content: the recipe's values, from `Recipe.to_dict`.
            model: the one model that is wanted, whose own fields can be named too.
        """

    @property
    def is_trained(self) -> bool:
        return True

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result besides the training and its data, as plain values."""

    @abstractmethod
    def check(self, sequence_length: int, vocab_size: int) -> None:
        """Build the model without memory, so that one that does not work is refused before any work.

        Raises:
            UserError: for a model that cannot be built or run, or that is too short for the sequences.
        """

    @abstractmethod
    def check_tokenizer(self, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
        """Refuse prepared data that the model cannot read.

        Raises:
            UserError: where it has another tokenizer.
        """

    def to_plan(self, vocab_size: int) -> tuple[LlamaConfig, LlamaConfig] | None:
        """Give the configurations to plan costs from: the model's own, and that of a LLaMA of the same shape.

        None for a model whose training keeps more or less than its configuration tells.
        """
        return None

    @abstractmethod
    def build(self, tokenizer: PreTrainedTokenizerFast, training: TrainingRecipe) -> PreTrainedModel:
        """Build the model before training; random numbers follow `training.seed` alone."""

    @abstractmethod
    def load(self, checkpoint: Path, tokenizer: PreTrainedTokenizerFast, training: TrainingRecipe) -> PreTrainedModel:
        """Load the model of a training's checkpoint."""

    @abstractmethod
    def export(self, model: PreTrainedModel, folder: Path, training: Training) -> None:
        """Write the trained model as people use it, with a card that tells of its training."""

    @abstractmethod
    def cost(self, config: PreTrainedConfig, sequence_length: int) -> ModelCost:
        """Count the parameters, and the FLOPs for one sequence."""

    def router_learning_rate(self, training: TrainingRecipe) -> float:
        """The learning rate of the routers, and of whatever else was put into the model."""
        return training.router_learning_rate

    def trainable_parameters(self, model: nn.Module) -> int | None:
        """How many parameters are trained; None where all are, as in every model from scratch."""
        return None
