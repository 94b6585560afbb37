"""Recipes: one readable TOML file that says all there is to say about an experiment.

A recipe's `[architecture]` holds the fields that all its models share, `[models.NAME]` what sets each apart, `[data]`
and `[training]` the rest. Adding a scale is adding a file to the `recipes` folder.
"""

import difflib
import operator
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_origin

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, LlamaConfig

from limelm.errors import UserError
from limelm.models import MODEL_TYPES
from limelm.models.flops import model_cost

PRECISIONS = ("fp32", "bf16")
TOKENIZER_FIELDS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class DataRecipe:
    """How text becomes sequences."""

    sequence_length: int
    vocab_size: int
    validation_fraction: float

    def __post_init__(self):
        _require(
            self,
            "data",
            at_least={"sequence_length": 2, "vocab_size": 1},
            above={"validation_fraction": 0},
            below={"validation_fraction": 1},
        )


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
class Recipe:
    """One experiment: several models, trained on the same data in the same order."""

    name: str
    description: str
    compare: tuple[str, ...]
    architecture: dict[str, Any]
    models: dict[str, dict[str, Any]]
    data: DataRecipe
    training: TrainingRecipe

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

    def model_config(self, name: str, vocab_size: int, **tokens: int | None) -> LlamaConfig:
        """The configuration of one of the recipe's models.

        Raises:
            UserError: for an unknown model type or field, or values that the configuration refuses.
        """
        own = {key: value for key, value in self.models[name].items() if key not in ("label", "model_type")}
        where = f"recipe {self.name}, model {name}"
        return self._config(where, self.models[name].get("model_type"), own, vocab_size=vocab_size, **tokens)

    def baseline_config(self, vocab_size: int, **tokens: int | None) -> LlamaConfig:
        """The configuration of a plain LLaMA of the recipe's architecture."""
        return self._config(f"recipe {self.name}", "llama", {}, vocab_size=vocab_size, **tokens)

    def _config(self, where: str, model_type: str | None, own: dict[str, Any], **ids: int | None) -> LlamaConfig:
        if model_type not in MODEL_TYPES:
            raise UserError(f"{where}: model_type={model_type!r} is unknown; allowed: {', '.join(MODEL_TYPES)}")
        wanted = {**self.architecture, **own}
        known = {field.name for field in fields(type(AutoConfig.for_model(model_type)))}
        for key in wanted:
            if key not in known:
                raise UserError(f"{where}: {_unknown(key, known)}")
            if key in TOKENIZER_FIELDS:
                raise UserError(f"{where}: {key} comes from the tokenizer; leave it out")
        try:
            return AutoConfig.for_model(model_type, **wanted, **ids)
        except (ValueError, TypeError, StrictDataclassError) as error:
            reason = error.__cause__ or error
            raise UserError(f"{where}: {reason}") from error


def recipe_names() -> list[str]:
    """The scales that come with the package."""
    return sorted(path.name.removesuffix(".toml") for path in _recipe_folder().iterdir() if path.name.endswith(".toml"))


def load_recipe(scale: str) -> Recipe:
    """A recipe of the package by its name, or one's own by the path of its .toml file.

    Raises:
        UserError: for an unknown scale, a file that cannot be read, or an unknown, missing or mistyped key.
    """
    if scale.endswith(".toml"):
        path = Path(scale)
        name = path.stem
    elif scale in recipe_names():
        path, name = Path(str(_recipe_folder() / f"{scale}.toml")), scale
    else:
        allowed = ", ".join(recipe_names())
        raise UserError(f"--scale {scale}: unknown scale; allowed: {allowed}, or the path of a .toml file")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError.from_os_error(path, error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML ({error})") from error
    content["name"] = name
    for section, kind in (("data", DataRecipe), ("training", TrainingRecipe)):
        content[section] = _build(kind, content.get(section, {}), f"{path} [{section}]")
    recipe = _build(Recipe, content, str(path))
    _check_names(recipe, path)
    return replace(recipe, compare=tuple(dict.fromkeys(recipe.compare)))


def _check_names(recipe: Recipe, path: Path) -> None:
    """Models are folders of a run and entries of its figures, so each needs a name and a label of its own."""
    for name, model in recipe.models.items():
        if not isinstance(model, dict):
            raise UserError(f"{path}: models.{name}={model!r} must be a table")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name == "all":
            raise UserError(f"{path}: models.{name!r} is no name; use letters, digits, '-', '_' and '.', and not 'all'")
    labels = [recipe.label(name) for name in recipe.models]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"{path}: two models have the label {label!r}")
    if not recipe.compare:
        raise UserError(f"{path}: compare=[] must name at least one model")
    for name in recipe.compare:
        if name not in list(recipe.models):
            raise UserError(f"{path}: compare has {name!r}, but there is no [models.{name}]")


T = TypeVar("T")
# How TOML writes what a field holds.
_TOML_TYPES = {int: (int,), float: (float, int), str: (str,), tuple: (list,), dict: (dict,)}
_TOML_NAMES = {int: "an integer", float: "a number", str: "a string", tuple: "a list", dict: "a table"}


def _build(kind: type[T], values: Any, where: str) -> T:
    """`kind(**values)` after a check of every key and type."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: must be a table, not {values!r}")
    known: dict[str, Any] = {field.name: get_origin(field.type) or field.type for field in fields(kind)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}: {_unknown(key, known)}")
        if known[key] in _TOML_TYPES and type(value) not in _TOML_TYPES[known[key]]:
            raise UserError(f"{where}: {key}={value!r} must be {_TOML_NAMES[known[key]]}")
    missing = known.keys() - values
    if missing:
        raise UserError(f"{where}: no value for {', '.join(sorted(missing))}")
    return kind(**values)


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


def _unknown(key: str, known) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(known)}")


def _recipe_folder():
    return resources.files("limelm.training") / "recipes"
