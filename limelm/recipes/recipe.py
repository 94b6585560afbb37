"""Recipes: everything that describes an experiment, as checked values.

A recipe's `architecture` holds the fields that all its models share, `models` what sets each apart, `data` and
`training` the rest of what decides the result, `engine` how a machine gets there. What a model is (`Subject`) and what
it reads (`Data`) is decided once, when the recipe is read.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from transformers import PreTrainedTokenizerFast

from limelm.errors import UserError
from limelm.recipes.adapted import Adapted, describe_base
from limelm.recipes.data import ProblemData, SequenceDataset, TextData
from limelm.recipes.from_scratch import FromScratch
from limelm.recipes.settings import SEEDS, EngineRecipe, TrainingRecipe
from limelm.recipes.subject import ModelTable, Subject
from limelm.records import Check, PositiveFloat, at_least, at_most


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment: several models, trained on the same data in the same order.

    Attributes:
        compare: the models that are trained unless others are named; a file that does not say has all.
        seeds: how many trainings of each model, with seeds from `training.seed` upwards.
        learning_rates: in place of `training.learning_rate`: `reproduce` trains each model at every one with the first
            seed, and with the other seeds at the one where its held-out loss was lowest. None are no search.
        base: the pretrained model, a folder or hub name, that all of them start from ("" while it is not named); None
            trains from scratch.
        architecture: fields of the configuration that models from scratch share.
        models: by name, what sets each apart, and its `label`.
    """

    name: str
    description: str = ""
    compare: Annotated[tuple[str, ...], Check(len, "at least one model")]
    seeds: Annotated[int, at_least(1), at_most(1000)] = 1
    learning_rates: tuple[PositiveFloat, ...] = ()
    base: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]]
    data: TextData | ProblemData = field(default_factory=TextData)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    engine: EngineRecipe = field(default_factory=EngineRecipe)

    def __post_init__(self) -> None:
        first = self.training.seed
        if first + self.seeds > SEEDS:
            raise UserError(
                f"seeds={self.seeds} from training.seed={first} upwards: the last must be less than {SEEDS}"
            )
        if self.learning_rates and (
            len(self.learning_rates) < 2 or sorted({*self.learning_rates}) != list(self.learning_rates)
        ):
            raise UserError(
                f"learning_rates={list(self.learning_rates)}: must be two or more, each above the one before"
            )
        if self.learning_rates and self.base is not None:
            raise UserError(
                "learning_rates: for models from scratch; parts of a pretrained model have rates of their own"
            )
        if self.base is not None and self.data.own is not None:
            raise UserError(
                f"data: {self.data.own!r} would have a tokenizer of its own, but the pretrained model brings one; "
                "leave it out, and give --data"
            )

    @property
    def kind(self) -> type[Subject]:
        """The kind of all its models."""
        return FromScratch if self.base is None else Adapted

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """The models, by name.

        Raises:
            UserError: for a field or value that none of its kind has.
        """
        return {name: self._subject(name) for name in self.models}

    def _subject(self, name: str) -> Subject:
        own = dict(self.models[name])
        label, length = own.pop("label", name), self.data.sequence_length
        return self.kind.read(ModelTable(self.name, name, label, own, self.architecture, length, self.base or ""))

    @property
    def names(self) -> list[str]:
        """The names of all models as people are shown them: those that are compared first, in that order."""
        return list(dict.fromkeys([*self.compare, *self.models]))

    def of_training(self, seed: int, learning_rate: float | None = None) -> "Recipe":
        """The recipe of single trainings: one seed, and one learning rate.

        Args:
            learning_rate: of `learning_rates`; routers keep the recipe's ratio to it. None keeps both rates.
        """
        single = replace(self, seeds=1, learning_rates=()).with_training(seed=seed)
        if learning_rate is None:
            return single
        ratio = learning_rate / self.training.learning_rate
        routers = self.training.router_learning_rate * ratio
        return single.with_training(learning_rate=learning_rate, router_learning_rate=routers)

    def with_training(self, **changes: Any) -> "Recipe":
        """The recipe with other training values."""
        return replace(self, training=replace(self.training, **changes))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return {**asdict(self), "compare": list(self.compare), "learning_rates": list(self.learning_rates)}

    def published(self) -> dict[str, Any]:
        """The recipe as plain values for a run's files, which others may read: paths are cut to their last name."""
        named = {} if self.base is None else describe_base(self.base)
        return {**self.to_dict(), "data": self.data.published(), **named}

    def own_data(self) -> str:
        """The name of the recipe's own data.

        Raises:
            UserError: where it has none.
        """
        if self.data.own is None:
            raise UserError(f"recipe {self.name}: needs --data, prepared with the pretrained model's own tokenizer")
        return self.data.own

    def open_data(self, folder: Path) -> tuple[PreTrainedTokenizerFast, SequenceDataset, SequenceDataset]:
        """Open a prepared folder: the tokenizer, the training set and the evaluation set.

        Raises:
            UserError: as `Data.open`, or for too few sequences for one batch.
        """
        tokenizer, train_set, eval_set = self.data.open(folder)
        if len(train_set) < self.training.batch_size:
            raise UserError(
                f"{folder}: the train split has {len(train_set)} sequences, fewer than one batch of "
                f"{self.training.batch_size}"
            )
        return tokenizer, train_set, eval_set

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

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """Choose sequences per forward, and forwards per process and step, so that a step takes the whole batch.

        The micro-batch is `engine.micro_batch_size`, or less where that does not divide a process's share.

        Raises:
            UserError: where the processes cannot share the batch evenly.
        """
        share, rest = divmod(self.training.batch_size, processes)
        if rest or not share:
            raise UserError(
                f"training.batch_size={self.training.batch_size} cannot be shared evenly by {processes} processes; "
                "start another number of them"
            )
        largest = min(self.engine.micro_batch_size, share)
        size = next(size for size in range(largest, 0, -1) if share % size == 0)
        return size, share // size
