"""Check the values of a configuration's fields, and warn of names that are nearly those of a field.

Hugging Face checks types, some ranges, and takes any name: a misspelled option would be kept and do nothing.
"""

import re
import warnings
from collections.abc import Collection
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, is_typeddict

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, LlamaConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from limelm.errors import UserError
from limelm.records import Fraction, PositiveFloat, Size, at_least, at_most, build, less_than, more_than

ConfigClass = TypeVar("ConfigClass", bound=type[PreTrainedConfig])

_TokenId = Annotated[int, at_least(-1), at_most(2**31 - 1)]  # some checkpoints say "none" by -1
MOST_LABELS = 2**20  # Hugging Face makes a name for each
#: What Llama's numbers must be, by field; None and lists of numbers are looked into where a field takes them.
NUMBERS: dict[str, Any] = {
    "vocab_size": Size,
    "hidden_size": Size,
    "intermediate_size": Size,
    "num_hidden_layers": Annotated[int, at_least(1), at_most(2**16)],
    "num_attention_heads": Size,
    "num_key_value_heads": Size,
    "head_dim": Size,
    "max_position_embeddings": Size,
    "pretraining_tp": Size,
    "pad_token_id": _TokenId,
    "bos_token_id": _TokenId,
    "eos_token_id": _TokenId,
    "initializer_range": Fraction,
    "rms_norm_eps": Annotated[float, more_than(0), at_most(1)],
    "attention_dropout": Annotated[float, at_least(0), less_than(1)],
}
#: The same for the entries of `rope_parameters`; all others need only be finite.
ROPE_NUMBERS: dict[str, Any] = {
    "rope_theta": PositiveFloat,
    "factor": PositiveFloat,
    "original_max_position_embeddings": Size,
    "low_freq_factor": PositiveFloat,
    "high_freq_factor": PositiveFloat,
    "attention_factor": PositiveFloat,
}


def strict_in_one_line(cls: ConfigClass) -> ConfigClass:
    """Hugging Face's `strict`, with errors that are a `ValueError` of one line."""
    cls = strict(cls)
    initialize = cls.__init__
    types = {field.name: field.type for field in fields(cls)}

    @wraps(initialize)
    def __init__(self, *args, **kwargs):
        try:
            initialize(self, *args, **kwargs)
        except StrictDataclassError as error:
            found = re.match(r"Validation error for field '(\w+)':\s+TypeError", str(error))
            if found and (name := found[1]) in kwargs:
                raise ValueError(f"{name}={kwargs[name]!r} must be {_in_words(types[name])}") from error
            raise ValueError(" ".join(str(error).split())) from error

    cls.__init__ = __init__  # type: ignore[method-assign]
    return cls


def _in_words(annotation: Any) -> str:
    """Put a type into words: `int | list[int] | None` becomes "int, list[int] or None"."""
    options = get_args(annotation) if isinstance(annotation, UnionType) or get_origin(annotation) is Union else ()
    kinds = [kind for kind in options or (annotation,) if not is_typeddict(kind)]
    names = ["None" if kind is NoneType else str(kind) if get_origin(kind) else kind.__name__ for kind in kinds]
    return " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def numbers_of(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    """Give what each number of a configuration class must be, by field: Llama's, and those that the class adds."""
    return NUMBERS | getattr(cls, "numbers", {})


def check_fields(config: PreTrainedConfig, others: dict[str, Any]) -> None:
    """Refuse field values with which no model can be built.

    Args:
        config: its fields have the right types.
        others: what it was given beside its fields.

    Raises:
        ValueError: with the field's name, its value and what is allowed.
    """
    for name, kind in numbers_of(type(config)).items():
        _check_numbers(name, getattr(config, name, None), kind)
    if config.hidden_act not in ACT2FN:
        raise ValueError(f"hidden_act={config.hidden_act!r} is unknown; allowed: {', '.join(ACT2FN)}")
    dtype = getattr(torch, config.dtype, None) if isinstance(config.dtype, str) else config.dtype
    if config.dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={config.dtype!r} is unknown; allowed: float32, bfloat16, float16 or torch's others")
    num_labels = others.get("num_labels")
    if num_labels is not None and (type(num_labels) is not int or not 0 <= num_labels <= MOST_LABELS):
        raise ValueError(f"num_labels={num_labels!r} must be an integer from 0 to {MOST_LABELS}")
    for name in ("id2label", "label2id"):
        if not isinstance(getattr(config, name), dict | None):
            raise ValueError(f"{name}={getattr(config, name)!r} must be dict or None")


def check_rope(config: PreTrainedConfig) -> None:
    """Refuse settings of rotary embeddings that cannot be computed.

    Raises:
        ValueError: with the entry's name, its value and what is allowed.
    """
    rope = config.rope_parameters
    allowed = ("default", *ROPE_INIT_FUNCTIONS)
    if rope["rope_type"] not in allowed:
        raise ValueError(
            f"rope_parameters: rope_type={rope['rope_type']!r} is unknown; allowed: {', '.join(dict.fromkeys(allowed))}"
        )
    for name, value in rope.items():
        numeric = isinstance(value, int | float | list | tuple | type(None))
        if name in ROPE_NUMBERS and not numeric:
            raise ValueError(f"rope_parameters: {name}={value!r} must be a number")
        _check_numbers(f"rope_parameters: {name}", value, ROPE_NUMBERS.get(name, float))
    try:
        config.validate_rope()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"rope_parameters={rope!r}: {error.args[0]}") from error


def _check_numbers(name: str, value: Any, kind: Any) -> None:
    for number in value if isinstance(value, list | tuple) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            try:
                build(kind, number, "", name)
            except UserError as error:
                raise ValueError(f"{name}={value!r} must be {str(error).partition(' must be ')[2]}") from None


# Names


#: Fields of other Hugging Face configurations, and of older ones, that are near one here and yet none of it.
_ELSEWHERE = {
    *("original_max_position_embeddings", "attention_probs_dropout_prob", "pruned_heads"),
    *("add_cross_attention", "cross_attention_hidden_size"),
}
_SPECIAL_TOKENS = ("_token", "_token_id")


def warn_of_names(cls: type[PreTrainedConfig], names: Collection[str], siblings: Collection[type]) -> None:
    """Warn once of names that a configuration class does not know and that look like misspelled fields.

    Other names are none of its business: Hugging Face and other tools leave theirs in a configuration.

    Args:
        cls: the configuration's class.
        names: what it was given beside its fields.
        siblings: classes whose fields are known too.
    """
    hints = {name: _hint(cls, name, siblings) for name in sorted(names) if not _is_elsewhere(cls, name)}
    unknown = ", ".join(f"{name!r} ({hint})" for name, hint in hints.items() if hint)
    if unknown:
        warnings.warn(f"{cls.__name__} has no field {unknown}: what is given by this name has no effect", stacklevel=3)


def _is_elsewhere(cls: type[PreTrainedConfig], name: str) -> bool:
    if name.startswith("_") or name in _ELSEWHERE or name.endswith(_SPECIAL_TOKENS):
        return True
    return hasattr(cls, name) or name in vars(GenerationConfig())


def _hint(cls: type[PreTrainedConfig], name: str, siblings: Collection[type]) -> str | None:
    """A hint at the field that a name may have been meant to be."""
    own = sorted(_field_names(cls) - _field_names(LlamaConfig))
    llamas = sorted(_field_names(LlamaConfig) - _field_names(PreTrainedConfig))
    if near := get_close_matches(name, own, 1, 0.6) or get_close_matches(name, llamas, 1, 0.8):
        return f"did you mean {near[0]!r}?"
    for sibling in siblings:
        if near := get_close_matches(name, sorted(_field_names(sibling) - _field_names(LlamaConfig)), 1, 0.75):
            return f"{near[0]!r} is one of {sibling.__name__}"
    common = {word for field in llamas for word in field.split("_")}  # as "attention", which anybody's fields have
    if own and set(name.split("_")) & (set(cls.model_type.split("_")) - common):
        return f"its own are {', '.join(own)}"
    return None


def _field_names(cls: type) -> set[str]:
    return {field.name for field in fields(cls)}
