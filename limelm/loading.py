"""Load a causal language model, or an adapter upon its base, with errors that say what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file, logging

from limelm import tokenizers
from limelm.adapters.attachment import attach
from limelm.adapters.description import DESCRIPTION, read_description
from limelm.adapters.files import LORA, find_adapter, load_adapter
from limelm.adapters.kinds import AdapterConfig
from limelm.adapters.parameters import router_parameters
from limelm.adapters.saving import FIELD, forget_saved_routing, saved_routing
from limelm.errors import UserError
from limelm.extras import import_peft
from limelm.files import is_dir, is_file
from limelm.models import MODEL_TYPES
from limelm.models.checkpoint_files import (
    PEFT_CONFIG,
    PeftFields,
    WeightIndex,
    check_files,
    check_finite,
    read_known,
    reading,
)
from limelm.records import Label
from limelm.text import printable

#: What a training writes into its folder; `limelm.training.result` has the whole of it.
RESULT = "result.json"


def load_checkpoint(checkpoint: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model (in evaluation mode) and its tokenizer; arguments and errors as in `load_model`.

    Raises:
        UserError: also for a tokenizer that makes token ids for which the model has no embedding.
    """
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizers.check_vocabulary(tokenizer, rows, str(checkpoint), "its model")
    return model, tokenizer


def load_on(device: torch.device, checkpoint: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer onto a device; on a CPU the model computes in float32."""
    model, tokenizer = load_checkpoint(checkpoint)
    return to_device(model, device), tokenizer


def to_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move a model to a device; on a CPU it computes in float32."""
    return model.float() if device.type == "cpu" else model.to(device)


def load_tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer, or its base's for an adapter without one; argument as in `load_model`.

    Raises:
        UserError: where there is none that can be read.
    """
    found = _find(checkpoint)
    for folder in found.adapters:
        if (folder / "tokenizer_config.json").is_file():
            return tokenizers.load_tokenizer(folder)
    return tokenizers.load_tokenizer(found.base)


def load_model(checkpoint: str | Path) -> PreTrainedModel:
    """Load a causal language model, in evaluation mode.

    Routers that were attached when it was saved, by `save_pretrained` or a `Trainer`, are attached again. No code of
    the checkpoint's own is run.

    Args:
        checkpoint: a folder, or, where there is none of this name, a model of the Hugging Face hub; or an adapter, with
            whose base it is read.

    Raises:
        UserError: where there is no checkpoint, one that is not of a causal language model, one whose weights do not
            fit its config, or hold NaN; or an adapter without its base.
    """
    found = _find(checkpoint)
    try:
        model = _load_base(found.base)
    except UserError as error:
        raise found.because_of_base(error) from error
    for folder in reversed(found.adapters):
        if (folder / DESCRIPTION).exists():
            load_adapter(model, folder)
        else:
            import_peft()
            with reading(folder):
                model.load_adapter(str(folder))
            check_finite(folder, model.named_parameters())
    return model.eval()


def load_config(checkpoint: str | Path) -> PreTrainedConfig:
    """Load a checkpoint's configuration, or its base's for an adapter; argument as in `load_model`.

    Raises:
        UserError: where there is none.
    """
    found = _find(checkpoint)
    try:
        return _read_config(found.base)
    except UserError as error:
        raise found.because_of_base(error) from error


def load_adapter_config(checkpoint: str | Path) -> AdapterConfig | None:
    """The configuration of attached routers, from an adapter or the checkpoint itself; None if there are none."""
    found = _find(checkpoint)
    for folder in found.adapters:
        if (folder / DESCRIPTION).exists():
            return read_description(folder).config
    return saved_routing(_read_config(found.base), found.base)


def context_length(config: PreTrainedConfig) -> int | None:
    """The number of tokens that a model reads at once; None if its configuration sets no bound."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint that has been found, before its weights are read.

    Attributes:
        context: tokens that its model reads at once; None where its configuration sets no bound.
    """

    checkpoint: str
    context: int | None
    tokenizer: PreTrainedTokenizerBase


def find_checkpoints(checkpoints: list[str]) -> list[FoundCheckpoint]:
    """Find checkpoints with their contexts and tokenizers, before any of their models is read.

    Raises:
        UserError: for one without a readable configuration or tokenizer, and a LoRA where PEFT is not installed.
    """
    for checkpoint in checkpoints:
        if any(_has_lora(folder) for folder in _find(checkpoint).adapters):
            import_peft()
    return [
        FoundCheckpoint(checkpoint, context_length(load_config(checkpoint)), load_tokenizer(checkpoint))
        for checkpoint in checkpoints
    ]


def _has_lora(adapter: Path) -> bool:
    return (adapter / LORA).is_dir() or _description_of(adapter) == PEFT_CONFIG


@dataclass(frozen=True)
class Labeled:
    """The part of a training's `result.json` that names its model."""

    label: Label


def model_labels(checkpoints: list[str]) -> list[str]:
    """A name for each checkpoint: its training's label or its folder's name, with parent folders where two agree.

    Raises:
        UserError: for a checkpoint that is named twice.
    """
    paths = [Path(checkpoint).absolute() for checkpoint in checkpoints]
    labels = [_label(path) for path in paths]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise UserError(f"{checkpoints[place]}: named twice")
    above, told_apart = 0, labels
    while len(set(told_apart)) < len(labels):  # ends, as the whole paths differ
        above += 1
        told_apart = [_with_folders(label, path, above) for label, path in zip(labels, paths, strict=True)]
    return told_apart


def _with_folders(label: str, path: Path, count: int) -> str:
    """A label, followed by so many of the last folder names of its path."""
    parts = path.parts[:-1] if label == path.name else path.parts
    return f"{label} ({printable('/'.join(parts[-count:]))})"


def _label(path: Path) -> str:
    if is_file(path / RESULT):
        return read_known(path / RESULT, Labeled).label
    return printable(path.name or str(path))


@dataclass(frozen=True)
class _AdapterChain:
    """The base that a checkpoint's name leads to, and the adapters upon it.

    Attributes:
        checkpoint: the name.
        adapters: folders, the outermost first; each but the last names the next one as its base.
        base: the checkpoint below them.
    """

    checkpoint: str | Path
    adapters: tuple[Path, ...]
    base: str | Path

    def because_of_base(self, error: UserError) -> UserError:
        """The base's error, with the name of the adapter that asked for it."""
        if not self.adapters:
            return error
        named_in = self.adapters[-1] / _description_of(self.adapters[-1])
        return UserError(f"{self.checkpoint}: its base cannot be read: {error}; {named_in} names it")


def _find(checkpoint: str | Path) -> _AdapterChain:
    """Find a base and the adapters upon it, of routers or PEFT's."""
    adapters: list[Path] = []
    base = checkpoint
    while (folder := _adapter_folder(base)) is not None:
        if folder.resolve() in [each.resolve() for each in adapters]:
            path = adapters[-1] / _description_of(adapters[-1])
            raise UserError(f"{path}: base_model={str(base)!r} is an adapter that has this one for its base")
        adapters.append(folder)
        base = _named_base(folder)
    return _AdapterChain(checkpoint, tuple(adapters), base)


def _adapter_folder(checkpoint: str | Path) -> Path | None:
    folder = find_adapter(checkpoint)
    if folder is None and is_dir(checkpoint) and (Path(checkpoint) / PEFT_CONFIG).is_file():
        return Path(checkpoint)
    return folder


def _description_of(folder: Path) -> str:
    return DESCRIPTION if (folder / DESCRIPTION).is_file() else PEFT_CONFIG


def _named_base(folder: Path) -> str:
    path = folder / _description_of(folder)
    if path.name == PEFT_CONFIG:
        return read_known(path, PeftFields).base_model_name_or_path
    base = read_description(folder).base_model
    if base is None:
        raise UserError(f"{path}: names no base_model; write its folder or hub name there")
    base = _where(base, folder)
    if is_dir(base) and Path(base).resolve() == folder.resolve():
        raise UserError(f"{path}: names itself as its base_model")
    return base


def _where(base: str, folder: Path) -> str:
    """Find a base that is named by a relative path: from the adapter's folder, from here, or from the folder above it.

    The last is where it was trained, if the two still lie as they did then.
    """
    if is_dir(folder / base):
        return str(folder / base)
    above = (parent / base for parent in folder.resolve().parents)
    return base if is_dir(base) else next((str(path) for path in above if is_file(path / "config.json")), base)


def _load_base(checkpoint: str | Path) -> PreTrainedModel:
    """Load the model of a checkpoint that is no adapter."""
    routing = saved_routing(_read_config(checkpoint), checkpoint)
    with reading(checkpoint), _without_report(routing is not None):
        model, loaded = AutoModelForCausalLM.from_pretrained(
            checkpoint, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
    for name, saved, wanted in sorted(loaded["mismatched_keys"], key=str):
        raise UserError(f"{checkpoint}: weights do not fit config.json: {name} is {tuple(saved)}, not {tuple(wanted)}")
    unexpected = set(loaded["unexpected_keys"])
    if routing is not None:
        unexpected -= _attach_saved(model, routing, checkpoint)
    # Checkpoints of other families may hold buffers that their models no longer have.
    strict = model.config.model_type in MODEL_TYPES
    for problem, names in (("missing", loaded["missing_keys"]), ("unexpected", unexpected if strict else ())):
        if names:
            raise UserError(
                f"{checkpoint}: weights do not fit config.json ({problem} keys: {min(map(str, names))}, ...)"
            )
    check_finite(checkpoint, model.named_parameters())
    return model


@contextmanager
def _without_report(is_silent: bool) -> Iterator[None]:
    """Keep transformers from reporting that a saved model's routers "can be ignored": they are read afterwards."""
    verbosity = logging.get_verbosity()
    if is_silent:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _attach_saved(model: PreTrainedModel, routing: AdapterConfig, checkpoint: str | Path) -> set[str]:
    """Attach routers as they were when the model was saved, with their weights; returns the weights' names."""
    forget_saved_routing(model)
    attach(model, **asdict(routing))
    routers = router_parameters(model)
    with reading(checkpoint):
        files = _weight_files(checkpoint)
    for name, parameter in routers.items():
        if name not in files:
            raise UserError(
                f"{checkpoint}: config.json says that routers are attached ({FIELD}), but its weights hold no {name}: "
                "they were lost when it was loaded by from_pretrained and saved again. Without the field it is loaded "
                "without routers"
            )
        with reading(checkpoint), safe_open(files[name], framework="pt") as file:
            tensor = file.get_tensor(name)
        if tensor.shape != parameter.shape:
            raise UserError(f"{files[name]}: {name} is {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
        with torch.no_grad():
            parameter.copy_(tensor)
    return set(routers)


def _weight_files(checkpoint: str | Path) -> dict[str, str]:
    """The file of each weight of a checkpoint in safetensors."""
    index = cached_file(checkpoint, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
    if index is not None:
        of_weight = read_known(Path(index), WeightIndex).weight_map
        return {name: str(cached_file(checkpoint, file)) for name, file in of_weight.items()}
    single = str(cached_file(checkpoint, SAFE_WEIGHTS_NAME))
    with safe_open(single, framework="pt") as file:
        return dict.fromkeys(file.keys(), single)


def _read_config(checkpoint: str | Path) -> PreTrainedConfig:
    """Read the configuration of a checkpoint that is no adapter."""
    check_files(checkpoint)
    with reading(checkpoint):
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    if config.model_type not in MODEL_TYPES:
        config.__dict__.pop("auto_map", None)  # for whoever builds a model from it would be asked to run that code
    return config
