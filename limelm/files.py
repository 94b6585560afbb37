"""Files that are never half-written."""

import os
from pathlib import Path

from limelm.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write beside and rename.

    Raises:
        UserError: where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # a name that outlives a power cut must not outlive its content
        partial.replace(path)
    except OSError as error:
        raise UserError.from_os_error(path, error) from error
