"""Files that are never half-written, and folders that one process at a time works in."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def lock(path: Path, taken: str) -> Iterator[None]:
    """Keep other processes out; the system ends the lock with the process, however that ends.

    Args:
        path: of the file that is locked; made where it is missing, and left there.
        taken: what to say where another process has it.

    Raises:
        UserError: where another process has it, or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    except OSError as error:
        raise UserError.from_os_error(path.parent, error) from error
    with stream:
        if importlib.util.find_spec("fcntl"):  # not on Windows
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(taken) from None
        yield
