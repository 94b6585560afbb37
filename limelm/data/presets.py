"""Named texts, each with the settings it is prepared with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limelm.data.journal import refuse_other_settings
from limelm.data.prepare import VALIDATION_FRACTION, VOCAB_SIZE, prepare
from limelm.data.progress import Progress
from limelm.data.shards import Manifest
from limelm.data.sources import HubDataset, LocalFiles, list_python_library
from limelm.errors import UserError


@dataclass(frozen=True)
class Preset:
    """A text, and the settings it is prepared with.

    Args:
        dataset: a data set of the Hugging Face hub, or a local folder of its format; None is the Python library.
        tokenizer: name or folder of a tokenizer; None trains one of `vocab_size` entries.
        max_documents: stop after so many; None takes all.
    """

    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "train"
    text_field: str = "text"
    tokenizer: str | None = None
    vocab_size: int = VOCAB_SIZE
    max_documents: int | None = None
    validation_fraction: float = VALIDATION_FRACTION


_FINEWEB_EDU = Preset(
    dataset="HuggingFaceTB/smollm-corpus",
    dataset_config="fineweb-edu-dedup",
    tokenizer="HuggingFaceFW/ablation-model-fineweb-edu",
)

PYTHON_LIBRARY = "the Python standard library"
PRESETS = {
    # The .py files of this Python's standard library: no network needed.
    "python-library": Preset(),
    # The paper's data (its section 5), about 1,000 tokens a document.
    "fineweb-edu": replace(_FINEWEB_EDU, max_documents=50_000_000, validation_fraction=0.0005),
    # Its first documents, for studies on one device.
    "fineweb-edu-small": replace(_FINEWEB_EDU, max_documents=250_000, validation_fraction=0.005),
}


def prepare_preset(
    name: str, out: Path, processes: int = 1, progress: Progress | None = None, **changes: Any
) -> Manifest:
    """Prepare a preset's text in the new folder `out`, or go on with it.

    Args:
        changes: other values for some of the preset's fields.

    Raises:
        UserError: for an unknown preset, and as `prepare` does.
    """
    if name not in PRESETS:
        raise UserError(f"preset {name!r} is unknown; allowed: {', '.join(PRESETS)}")
    preset = replace(PRESETS[name], **changes)
    hub = _on_hub(preset)
    return prepare(
        out,
        hub or LocalFiles(list_python_library()),
        hub.description if hub else PYTHON_LIBRARY,
        tokenizer=preset.tokenizer,
        vocab_size=preset.vocab_size,
        validation_fraction=preset.validation_fraction,
        max_documents=preset.max_documents,
        processes=processes,
        progress=progress,
    )


def refuse_other_preset(name: str, out: Path, vocab_size: int, validation_fraction: float) -> None:
    """Refuse a prepared folder that is not of a preset with these settings; whether the text has changed is not asked.

    Raises:
        UserError: for the first setting that differs.
    """
    preset = PRESETS[name]
    hub = _on_hub(preset)
    wanted = {
        "source": hub.description if hub else PYTHON_LIBRARY,
        "vocab_size": vocab_size if preset.tokenizer is None else None,
        "validation_fraction": validation_fraction,
    }
    refuse_other_settings(out, wanted, wanted)


def _on_hub(preset: Preset) -> HubDataset | None:
    """The data set of a preset; None where it is the Python library."""
    if preset.dataset is None:
        return None
    return HubDataset(preset.dataset, preset.dataset_config, preset.dataset_split, preset.text_field)
