"""Check other people's checkpoints before transformers, PEFT and torch read them; errors take one line.

Code that a checkpoint brings along is never run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, cached_file

from limelm.errors import UserError
from limelm.files import is_dir, is_file
from limelm.models.configuration import HUB_MODULE
from limelm.records import Check, FileName, Fraction, PositiveFloat, Size, at_least, at_most, build, load_json
from limelm.registration import MODELS
from limelm.text import printable

T = TypeVar("T")

PEFT_CONFIG = "adapter_config.json"

Dtype = Annotated[
    str, Check(lambda name: name == "auto" or _is_float(name), "the name of a floating-point type, such as bfloat16")
]
Layers = Annotated[int, at_least(0), at_most(10_000)]
#: Attention from a repository of the hub would be code of somebody else's.
Builtin = Annotated[
    str, Check(lambda name: "/" not in name, "the name of an attention of transformers; others are code")
]
Quantization = Annotated[
    dict[str, Any],
    Check(
        lambda table: table.get("quant_method", "bitsandbytes") in ("bitsandbytes", *AUTO_QUANTIZATION_CONFIG_MAPPING),
        "of a quant_method that transformers knows",
    ),
]
Rope = Annotated[
    dict[str, Any],
    Check(
        lambda table: all(isinstance(table.get(name, ""), str) for name in ("rope_type", "type")),
        "a table whose rope_type is a text",
    ),
]
TokenIds = Annotated[int, at_least(-1)] | tuple[Annotated[int, at_least(-1)], ...] | None


@dataclass(frozen=True)
class ConfigFields:
    """The fields of config.json that many families share; transformers checks the others."""

    model_type: str
    architectures: tuple[str, ...] | None = None
    auto_map: dict[str, Any] | None = None
    attn_implementation: Builtin | dict[str, Builtin] | None = None
    _attn_implementation: Builtin | dict[str, Builtin] | None = None
    dtype: Dtype | dict[str, Any] | None = None
    torch_dtype: Dtype | dict[str, Any] | None = None
    quantization_config: Quantization | None = None
    rope_parameters: Rope | None = None
    rope_scaling: Rope | None = None
    vocab_size: Size | None = None
    hidden_size: Size | None = None
    intermediate_size: Size | tuple[Size, ...] | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Size | tuple[Size, ...] | None = None
    num_key_value_heads: Size | tuple[Size, ...] | None = None
    head_dim: Size | None = None
    max_position_embeddings: Size | None = None
    hidden_act: str | None = None
    tie_word_embeddings: bool | None = None
    rms_norm_eps: PositiveFloat | None = None
    layer_norm_eps: PositiveFloat | None = None
    rope_theta: PositiveFloat | None = None
    attention_dropout: Fraction | None = None
    initializer_range: Annotated[float, at_least(0)] | None = None


@dataclass(frozen=True)
class GenerationFields:
    """The fields of generation_config.json that decide what is generated."""

    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None
    pad_token_id: TokenIds = None
    do_sample: bool | None = None
    temperature: Annotated[float, at_least(0)] | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, at_least(0)] | None = None
    repetition_penalty: PositiveFloat | None = None
    num_beams: Size | None = None
    max_length: Size | None = None
    max_new_tokens: Size | None = None


@dataclass(frozen=True)
class PeftFields:
    """The fields of adapter_config.json that are needed to find the base and to put the weights in."""

    base_model_name_or_path: str
    peft_type: str
    target_modules: str | tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] | None = None
    r: Size | None = None
    megatron_config: None = None  # names a module to import


@dataclass(frozen=True)
class WeightIndex:
    """The index of a sharded checkpoint: which file holds which weight."""

    weight_map: dict[str, FileName]


def check_files(checkpoint: str | Path) -> None:
    """Check the JSON files of a checkpoint.

    Args:
        checkpoint: a folder, or a model of the Hugging Face hub.

    Raises:
        UserError: for a checkpoint without a readable config.json; for a field that cannot be right, or code of the
            checkpoint's own.
    """
    if is_local(checkpoint) and not is_file(Path(checkpoint) / CONFIG_NAME):
        raise UserError(f"{printable(str(checkpoint))}: not a checkpoint (no readable {CONFIG_NAME})")
    with reading(checkpoint):
        config = cached_file(checkpoint, CONFIG_NAME)
        others = {
            kind: cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False)
            for name, kind in ((GENERATION_CONFIG_NAME, GenerationFields), (SAFE_WEIGHTS_INDEX_NAME, WeightIndex))
        }
    _check_model_type(Path(config), read_known(Path(config), ConfigFields))
    for kind, path in others.items():
        if path is not None:
            read_known(Path(path), kind)


def read_known(path: Path, kind: type[T]) -> T:
    """Read the fields of a JSON file that a record knows, and ignore all others.

    Raises:
        UserError: for a file that cannot be read, or a field that does not fit.
    """
    content = load_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a table of fields")
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return build(kind, {name: value for name, value in content.items() if name in known}, str(path))


@contextmanager
def reading(checkpoint: str | Path) -> Iterator[None]:
    """A context that turns whatever other libraries raise about a checkpoint into one line that names it.

    Raises:
        UserError: for any exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # files of strangers make these libraries raise nearly everything
        what = "broken checkpoint"
        if not is_local(checkpoint):
            what = "no such folder, and no readable model of the Hugging Face hub"
        raise UserError(f"{printable(str(checkpoint))}: {what} ({_reason(checkpoint, error)})") from error


def is_local(checkpoint: str | Path) -> bool:
    """Whether a checkpoint is looked for on the disk, not on the hub."""
    return isinstance(checkpoint, Path) or is_dir(checkpoint) or is_file(checkpoint)


def _is_float(name: str) -> bool:
    dtype = getattr(torch, name.removeprefix("torch."), None)
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def check_finite(name: str | Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Refuse weights that hold NaN or infinity; weights without values here (on the meta device) are skipped.

    Args:
        name: of the file or folder, said in the error.

    Raises:
        UserError: for the first such weight.
    """
    for weight, tensor in tensors:
        if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        tensor = tensor.detach()
        extremes = tensor.float() if tensor.element_size() == 1 else tensor
        # Either is NaN where one value is; no copy of the weight is made.
        if not all(torch.isfinite(value) for value in torch.aminmax(extremes)):
            raise UserError(f"{name}: {weight} holds NaN or infinite values")


def _check_model_type(path: Path, known: ConfigFields) -> None:
    if known.model_type in CONFIG_MAPPING:
        return
    modules = {str(value).rpartition(".")[0] for value in (known.auto_map or {}).values()}
    if modules == {HUB_MODULE}:
        reason = f"this limelm has no such model; another version may have. It has {', '.join(MODELS)}"
    elif modules:
        reason = "it needs Python code of its own, which limelm does not run"
    else:
        reason = "neither this transformers nor limelm knows it"
    raise UserError(f"{path}: model_type={known.model_type!r}: {reason}")


def _reason(checkpoint: str | Path, error: Exception) -> str:
    """The reason why a library could not read a checkpoint, in one line, with the file if that is known."""
    text = str(error)
    if "trust_remote_code" in text or "custom code" in text:
        return "it needs Python code of its own, which limelm does not run"
    if "weights_only" in text:
        return "its weights are a pickle that holds more than tensors, which is not run; convert them to safetensors"
    if isinstance(error, SafetensorError) and (broken := _broken_file(checkpoint)):
        return broken
    if isinstance(error, KeyError) and (place := _place_of(error.args[0], checkpoint)):
        return f"{CONFIG_NAME}: {place}={error.args[0]!r} is not known to transformers"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    if isinstance(error, StrictDataclassError):
        return printable(" ".join(lines[:2]))
    expected = isinstance(error, (OSError, ValueError, ImportError, RuntimeError))
    return printable(lines[0] if expected and lines[0] else f"{type(error).__name__}: {lines[0]}")


def _place_of(value: Any, checkpoint: str | Path) -> str | None:
    """The path of field names that leads to a value in a checkpoint's config.json."""
    path = Path(checkpoint) / CONFIG_NAME
    tables = [("", load_json(path))] if is_local(checkpoint) and is_file(path) else []
    while tables:
        prefix, table = tables.pop()
        for name, entry in table.items():
            if entry == value and isinstance(entry, str):
                return prefix + name
            if isinstance(entry, dict):
                tables.append((f"{prefix}{name}.", entry))
    return None


def _broken_file(checkpoint: str | Path) -> str | None:
    for path in sorted(Path(checkpoint).glob("*.safetensors")) if is_local(checkpoint) else ():
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{path.name}: {error}"
    return None
