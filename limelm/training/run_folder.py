"""`run.json` records which run a folder belongs to; it is written first."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.files import partial_of
from limelm.records import read_json
from limelm.training.data import DATA

RUN, LOCK = "run.json", ".lock"
# What may be there before run.json.
OWN = (LOCK, DATA, *(partial_of(Path(name)).name for name in (RUN, DATA)))


@dataclass(frozen=True)
class RunFile:
    """`run.json`: what decides the result, and for one model's training the resolved recipe and where it was made."""

    run: dict[str, Any]
    recipe: dict[str, Any] | None = None
    environment: dict[str, str | int] | None = None


def read_run(folder: Path) -> dict[str, Any] | None:
    """Read a folder's `run.json`; None for a folder that is new, empty, or holds its data only.

    Raises:
        UserError: where the folder holds something else, or cannot be used.
    """
    path = folder / RUN
    try:
        if not folder.exists():
            return None
        if not folder.is_dir():
            raise UserError(f"{folder}: not a folder")
        if not os.access(folder, os.W_OK):
            raise UserError(f"{folder}: not writable")
        if not path.exists():
            others = [entry.name for entry in folder.iterdir() if entry.name not in OWN]
            if others:
                raise UserError(f"{folder}: already holds other files ({others[0]}); name a new folder")
            return None
    except OSError as error:
        raise UserError.from_os_error(folder, error) from error
    try:
        return read_json(path, RunFile).run
    except UserError as error:
        raise UserError(f"{error}; name a new folder") from error
