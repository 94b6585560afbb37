"""A run's folder: `run.json` says whose it is, before anything else is written into it."""

import json
import os
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.training.data import DATA

RUN, LOCK = "run.json", ".lock"
OWN = (LOCK, DATA, f".{DATA}.partial")  # what may be there before run.json


def read_run(folder: Path) -> dict[str, Any] | None:
    """What `run.json` says of the folder's run; None for a folder that is new, empty, or holds its data only.

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
        return dict(json.loads(path.read_text(encoding="utf-8"))["run"])
    except OSError as error:
        raise UserError.from_os_error(folder, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: broken ({error!r}); name a new folder") from error
