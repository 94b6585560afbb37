"""Checkpoints of a training, which count only if they are complete.

The Trainer writes `checkpoint-STEP`; when all of its files are on the disk, `complete.json` is put beside them, with
the hash of each and the run that they belong to. A folder without that file is what a kill left of a save.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.files import file_sha256, write_text
from limelm.records import Count, Sha256, read_json
from limelm.training.run_folder import refuse_other_run

PREFIX, COMPLETE = "checkpoint-", "complete.json"


@dataclass(frozen=True)
class SavedFile:
    """A file of a checkpoint, as it was saved."""

    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Seal:
    """`complete.json`: the files of a checkpoint, and the run that they belong to (see `run_folder.identify`)."""

    files: dict[str, SavedFile]
    run: dict[str, Any]


def seal(checkpoint: Path, run: dict[str, Any]) -> None:
    """Declare a checkpoint complete: flush its files and write `complete.json`.

    Args:
        run: what it belongs to, from `run_folder.identify`.
    """
    files = {}
    for path in sorted(checkpoint.iterdir()):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_text(checkpoint / COMPLETE, json.dumps({"files": files, "run": run}, indent=2) + "\n")


def newest_complete(folder: Path) -> Path | None:
    """The complete checkpoint of the latest step, or None."""
    return next(reversed(_complete(folder)), None)


def step_of(checkpoint: Path) -> int:
    """The number of steps taken at a checkpoint."""
    return int(checkpoint.name.removeprefix(PREFIX))


def check(checkpoint: Path, run: dict[str, Any]) -> None:
    """Compare a complete checkpoint's files with their hashes, and its run with `run`.

    Raises:
        UserError: for a file that is missing or not the one that was saved, or a checkpoint of another run.
    """
    remedy = f"remove {checkpoint} to go on from the one before it, if any"
    try:
        complete = read_json(checkpoint / COMPLETE, Seal)
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error
    try:
        for name, saved in complete.files.items():
            path = checkpoint / name
            if not path.is_file():
                raise UserError(f"{path}: missing; {remedy}")
            if path.stat().st_size != saved.bytes or file_sha256(path) != saved.sha256:
                raise UserError(f"{path}: not what was saved (another size or hash); {remedy}")
    except OSError as error:
        raise UserError.from_os_error(checkpoint, error) from error
    refuse_other_run(checkpoint, complete.run, run)


def discard_incomplete(folder: Path) -> None:
    """Remove incomplete checkpoints that a kill left."""
    for checkpoint in _checkpoints(folder):
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint)


def keep_newest(folder: Path, number: int) -> None:
    """Remove all complete checkpoints but the newest `number`."""
    for checkpoint in _complete(folder)[:-number]:
        (checkpoint / COMPLETE).unlink()  # first, so that a kill leaves no half of a complete one
        shutil.rmtree(checkpoint)


def _complete(folder: Path) -> list[Path]:
    return [checkpoint for checkpoint in _checkpoints(folder) if (checkpoint / COMPLETE).exists()]


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, in the order of their steps."""
    found = (path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal())
    return sorted(found, key=step_of)
