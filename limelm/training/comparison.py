"""The main job: train a recipe's models side by side, on the same data in the same order.

A run's folder holds `run.json` (the resolved recipe and the data's hash), `data/`, `models/NAME/` and `summary.json`.
Models that are done are kept: started again in the same folder, a run goes on with what is missing.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limelm.data import Manifest, TokenDataset, load_prepared_tokenizer, prepare, read_python_library
from limelm.data.shards import SPLITS
from limelm.errors import UserError
from limelm.files import write_text
from limelm.training.recipe import Recipe
from limelm.training.run import RESULT, environment, read_result, train_model

RUN, SUMMARY = "run.json", "summary.json"


def reproduce(recipe: Recipe, out: Path, models: list[str] | None = None, data: Path | None = None) -> list[str]:
    """Train the models that `out` does not hold yet, and write `out/summary.json`.

    Args:
        models: names in the recipe, or ["all"]; by default the recipe's `compare`.
        data: a prepared folder; by default the Python library is prepared into `out/data`.

    Returns:
        The names of the models that were trained now; none where the run was complete.

    Raises:
        UserError: for bad input, before any work; or where `out` holds another run.
    """
    names = recipe.select(models)
    for name in names:
        recipe.check_model(name)
    if data is not None:
        _check_data(recipe, data)
    run = {"data": "the Python library" if data is None else "a prepared folder (--data)", "recipe": recipe.to_dict()}
    _check_same_run(out, run)
    if data is None:
        data = out / "data"
        if not (out / RUN).exists():
            _write_json(out / RUN, run)  # before the data, which it has made its own
        if not data.exists():
            prepare(
                data,
                read_python_library,
                source="the Python standard library",
                vocab_size=recipe.data.vocab_size,
                validation_fraction=recipe.data.validation_fraction,
            )
    manifest = Manifest.load(data)
    run["data_sha256"] = manifest.content_sha256
    _check_same_run(out, run)
    _write_json(out / RUN, run)

    folders = {name: out / "models" / name for name in names}
    missing = {name: folder for name, folder in folders.items() if read_result(folder) is None}
    for folder in missing.values():
        if folder.exists():
            raise UserError(f"{folder}: already there, without a {RESULT}; remove it to train this model")
    for name, folder in missing.items():
        train_model(recipe, name, data, folder)
    if missing or not (out / SUMMARY).exists():
        _write_json(out / SUMMARY, _summary(recipe, out, data, manifest))
    return list(missing)


def _check_data(recipe: Recipe, data: Path) -> None:
    """Open both splits, hashes and all, so that bad data is refused before any work."""
    load_prepared_tokenizer(data)
    sequences = {split: len(TokenDataset(data, split, recipe.data.sequence_length)) for split in SPLITS}
    if sequences["train"] < recipe.training.batch_size:
        raise UserError(
            f"{data}: the train split has {sequences['train']} sequences, fewer than one batch of "
            f"{recipe.training.batch_size}"
        )


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def _check_same_run(out: Path, run: dict[str, Any]) -> None:
    """Refuse a folder that holds something else, or a run with other settings."""
    try:
        if not out.exists():
            out.mkdir(parents=True)
            return
        if not out.is_dir():
            raise UserError(f"{out}: not a folder")
        if not os.access(out, os.W_OK):
            raise UserError(f"{out}: not writable")
        path = out / RUN
        if not path.exists():
            others = [entry.name for entry in out.iterdir()]
            if others:
                raise UserError(f"{out}: already holds other files ({others[0]}); name a new folder")
            return
        recorded = _flatten(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError.from_os_error(out, error) from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: broken ({error}); name a new folder") from error
    wanted = _flatten(run)
    for key in sorted(wanted.keys() | recorded.keys()):
        before, now = recorded.get(key), wanted.get(key)
        if before != now and not _may_differ(key, recorded, wanted):
            raise UserError(f"{out}: holds a run with {'.'.join(key)}={before!r}, not {now!r}; name a new folder")


def _may_differ(key: tuple[str, ...], recorded: dict[tuple[str, ...], Any], wanted: dict[tuple[str, ...], Any]) -> bool:
    """What a run may go on with: its recipe's words, models that only one side knows, and data that are not ready."""
    if key[:2] == ("recipe", "models"):
        return not all(any(other[:3] == key[:3] for other in side) for side in (recorded, wanted))
    if key == ("data_sha256",):
        return not (key in recorded and key in wanted)
    return key in (("recipe", "name"), ("recipe", "description"), ("recipe", "compare"))


def _flatten(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value}
    return flat


def _summary(recipe: Recipe, out: Path, data: Path, manifest: Manifest) -> dict[str, Any]:
    results = ((out / "models" / name, read_result(out / "models" / name)) for name in recipe.models)
    return {
        "scale": recipe.name,
        "data": {
            "folder": str(data.resolve()),
            "source": manifest.source,
            "content_sha256": manifest.content_sha256,
            "vocab_size": manifest.vocab_size,
            "sequence_length": recipe.data.sequence_length,
            **{
                f"{name}_{what}": getattr(split, what)
                for name, split in manifest.splits.items()
                for what in ("documents", "tokens")
            },
        },
        "environment": environment(),
        "models": [
            {**asdict(result), "checkpoint": str(folder.resolve())} for folder, result in results if result is not None
        ],
    }
