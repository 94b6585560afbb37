"""Adapters as files: routers, and the weights trained beside them, in a folder that can be copied or pushed to the hub.

`lime_adapter.json` says how routers are attached and to which model, `lime_adapter.safetensors` holds the routers and
every weight of the model itself that was changed, `lora/` a LoRA in PEFT's format where the model has one, and
`README.md` a model card, which stays where there is one. The JSON is written last: without it there is no adapter.
"""

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm._version import __version__
from limelm.adapters.attachment import (
    attach_to_base,
    attachment_of,
    changed_parameters,
    detach,
    required_attachment,
)
from limelm.adapters.description import DESCRIPTION, Description, Resized, read_description
from limelm.adapters.kinds import ATTACHED
from limelm.adapters.parameters import (
    BaseIdentity,
    base_parameters,
    base_values,
    fingerprint_parameters,
    identify_base,
    is_peft_model,
    lora_parameters,
    plain_model,
    router_parameters,
    vocabulary_rows,
)
from limelm.adapters.routers import LIME_ROUTERS
from limelm.errors import UserError
from limelm.extras import import_peft
from limelm.files import is_dir, partial_of, write_text
from limelm.models.card import Training, adapter_card, write_card
from limelm.models.checkpoint_files import check_finite, is_local, reading
from limelm.models.hub import PushOptions, push_folder, take_push
from limelm.models.offload import offloaded_parameters
from limelm.routing import whole

WEIGHTS, LORA = "lime_adapter.safetensors", "lora"


def save_adapter(
    model: PreTrainedModel, folder: str | Path, push_to_hub: bool = False, **options: Unpack[PushOptions]
) -> Path:
    """Write a model's routers, and all weights trained beside them, into a folder.

    Args:
        model: with attached routers; or PEFT's model around one.
        folder: made where it is missing. An adapter that is there is replaced, but for its card.
        push_to_hub: whether to push the adapter to the Hugging Face hub after it is saved.
        options: of the push, as in `save_pretrained`: `repo_id` (by default the folder's name), `private`, `token`,
            `revision`, `create_pr`, `commit_message`, `commit_description`, `tags`.

    Returns:
        The folder.

    Raises:
        UserError: for a model without routers or one that was attached to on the meta device, or a folder that cannot
            be written.
    """
    push = take_push(options, Path(folder), push_to_hub, "save_adapter")
    saved = write_adapter(model, folder)
    if push is not None:
        push_folder(saved, push, [DESCRIPTION, WEIGHTS, f"{LORA}/*"])
    return saved


def write_adapter(model: PreTrainedModel, folder: str | Path, training: Training | None = None) -> Path:
    """Write an adapter as `save_adapter` does, with a card that tells of its training.

    Args:
        training: that is told of; None where nothing is known of it.
    """
    if not str(folder):
        raise UserError("folder='' is empty; name a new folder")
    folder = Path(folder)
    attachment = required_attachment(model)
    plain = plain_model(model)
    if not attachment.base:
        raise UserError(
            f"{type(plain).__name__}: it had no weights when the routers were attached, so the adapter's base is not "
            "known; load the model's weights before attach"
        )
    changed = changed_parameters(plain, attachment.base)
    own = dict(base_values(plain))
    tensors = {**router_values(plain), **{name: own[name] for name in changed}}
    has_lora = is_peft_model(model) or bool(getattr(plain, "_hf_peft_config_loaded", False))
    if not has_lora and lora_parameters(plain):
        raise UserError(f"{type(plain).__name__}: has a LoRA of a PEFT model around it; save that model's adapter")
    if (folder / "config.json").exists():
        raise UserError(f"{folder}: holds a model; name another folder")
    rows = vocabulary_rows(plain)
    description = Description(
        format_version=1,
        limelm=__version__,
        **asdict(attachment.config),
        base_model=plain.config.name_or_path or None,
        base=identify_base(plain, attachment.base),
        replaces=tuple(changed),
        lora=has_lora,
        resized=Resized(attachment.vocabulary, rows) if rows != attachment.vocabulary else None,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DESCRIPTION).unlink(missing_ok=True)
        _save_tensors(folder / WEIGHTS, tensors)
        if has_lora:
            type(model).save_pretrained(model, folder / LORA)  # not that of a model with routers, which warns
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter cannot be written ({error})") from error
    write_card(folder, _card(description, folder.name, plain, training))
    write_text(folder / DESCRIPTION, json.dumps(asdict(description), indent=2) + "\n")
    return folder


def load_adapter(model: PreTrainedModel, adapter: str | Path, check_base: bool = True) -> PreTrainedModel:
    """Attach routers and give them the values of an adapter, in place.

    Adapters do not add up: a model takes one at a time.

    Args:
        model: the adapter's base.
        adapter: a folder, or, where there is none of this name, a repository of the Hugging Face hub.
        check_base: refuse a model whose weights are not those that the adapter was made for. A quantized model has
            other weights, and needs False.

    Returns:
        The model.

    Raises:
        UserError: for an adapter that is missing, broken, or made for another model; or a model that has routers.
    """
    folder = find_adapter(adapter)
    if folder is None:
        raise UserError(f"{adapter}: no adapter (no {DESCRIPTION})")
    if attachment_of(model) is not None:
        raise UserError(
            f"{adapter}: the model has routers already, and adapters that were trained apart cannot be merged; detach "
            "the others first"
        )
    description = read_description(folder)
    if description.lora and not (folder / LORA).is_dir():
        raise UserError(f"{folder / LORA}: missing")
    if description.lora and lora_parameters(model):
        raise UserError(f"{adapter}: has a LoRA, and so has the model; a model takes one adapter at a time")
    if description.lora:
        import_peft()
        _check_lora(folder / LORA)
    rows = vocabulary_rows(model)
    vocabulary = _base_vocabulary(rows, description.resized, folder)
    if check_base:
        _check_base(model, description.base, vocabulary, adapter)
    attach_to_base(model, description.config, vocabulary)
    try:
        if description.resized is not None and rows != description.resized.adapted:
            model.resize_token_embeddings(description.resized.adapted, mean_resizing=False)
        values = _read_tensors(model, folder / WEIGHTS, list(description.replaces))
        if description.lora:
            with reading(folder / LORA):
                model.load_adapter(str(folder / LORA))
        with torch.no_grad():  # when nothing can fail any more
            for target, tensor in values:
                target.copy_(tensor)
    except BaseException:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that weights have changed: they are as they were but for new tokens
            if vocabulary_rows(model) != rows:
                model.resize_token_embeddings(rows)
            detach(model)
        raise
    return model


def _check_lora(folder: Path) -> None:
    """Refuse a LoRA that cannot be read or holds NaN, before any of it is in a model."""
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    path = folder / SAFETENSORS_WEIGHTS_NAME
    with reading(folder):
        tensors = load_file(path)
    check_finite(folder, iter(tensors.items()))


def _base_vocabulary(rows: int, resized: Resized | None, folder: Path) -> int:
    """The number of a model's embedding rows that belong to the adapter's base.

    Raises:
        UserError: for a model that has neither the base's vocabulary nor the adapter's.
    """
    if resized is None or rows == resized.base:
        return rows
    if rows != resized.adapted or resized.adapted < resized.base:
        raise UserError(
            f"{folder / DESCRIPTION}: the vocabulary was resized from {resized.base} to {resized.adapted} tokens, and "
            f"the model has {rows}; load the adapter upon its base as it was, which is then resized"
        )
    return resized.base


def find_adapter(adapter: str | Path) -> Path | None:
    """The folder of an adapter, fetched from the hub if it is not on the disk; None if the path or name is no adapter.

    Raises:
        UserError: for a folder that has lost its description.
    """
    folder = Path(adapter)
    if not is_dir(folder):
        if is_local(adapter):
            return None
        try:
            hf_hub_download(adapter, DESCRIPTION)
        except Exception:  # not there, not reached, or no name of a repository
            return None
        with reading(adapter):
            files = [DESCRIPTION, WEIGHTS, f"{LORA}/*", "*token*"]
            folder = Path(snapshot_download(adapter, allow_patterns=files))
    if (folder / DESCRIPTION).is_file():
        return folder
    if (folder / WEIGHTS).exists():
        raise UserError(f"{folder}: not a complete adapter (no {DESCRIPTION})")
    return None


def router_values(model: nn.Module) -> dict[str, Tensor]:
    """The routers' values by name, also of those that accelerate keeps off the device."""
    offloaded = offloaded_parameters(model)
    parameters = router_parameters(model).items()
    return {name: offloaded[id(value)]() if id(value) in offloaded else value for name, value in parameters}


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    content = {name: whole(tensor).detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial = partial_of(path)
    partial.unlink(missing_ok=True)  # what a kill left, or a link that somebody put there
    save_file(content, partial, metadata={"format": "pt"})
    partial.replace(path)


def _read_tensors(model: PreTrainedModel, path: Path, replaces: list[str]) -> list[tuple[Tensor, Tensor]]:
    """Read an adapter's tensors, each paired with the parameter that it belongs to."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    own = dict(base_parameters(model))
    targets: dict[str, Tensor] = {**router_parameters(model), **{name: own[name] for name in replaces if name in own}}
    for name in sorted(tensors.keys() ^ targets.keys() | set(replaces) - targets.keys()):
        missing = "is missing" if name in targets else "belongs to no router or weight of this model"
        raise UserError(f"{path}: {name} {missing}")
    for name, tensor in tensors.items():
        if tensor.shape != targets[name].shape:
            raise UserError(f"{path}: {name} is {tuple(tensor.shape)}, not {tuple(targets[name].shape)}")
        if targets[name].is_meta:
            raise UserError(
                f"{path}: {name} is not in the model's memory; load the adapter before weights are offloaded"
            )
    check_finite(path, iter(tensors.items()))
    return [(targets[name], tensor) for name, tensor in tensors.items()]


def _check_base(model: PreTrainedModel, wanted: BaseIdentity, vocabulary: int, adapter: str | Path) -> None:
    found = identify_base(model, fingerprint_parameters(model, vocabulary))
    if found == wanted:
        return
    for what in ("model_type", "parameters"):
        if getattr(found, what) != getattr(wanted, what):
            raise UserError(
                f"{adapter}: made for a model with {what}={getattr(wanted, what)!r}, not {getattr(found, what)!r}"
            )
    raise UserError(
        f"{adapter}: made for a model of this shape with other weights (sha256 {wanted.sha256[:12]}, not "
        f"{found.sha256[:12]}); load its own base, or give check_base=False where they only differ by quantization"
    )


def _card(description: Description, name: str, model: PreTrainedModel, training: Training | None) -> str:
    beside = [f"{len(description.replaces)} weights of the model itself"] if description.replaces else []
    beside += ["a LoRA (PEFT)"] if description.lora else []
    called = ATTACHED[description.routing].called
    return adapter_card(
        name,
        called,
        ("lime",) if called == LIME_ROUTERS else (),
        description.routing,
        description.base_model,
        f" {description.limelm}" + (f"; trained beside them: {', '.join(beside)}" if beside else ""),
        type(model).__name__,
        training,
    )
