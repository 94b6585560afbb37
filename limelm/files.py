"""Files that are never half-written, folders that one process at a time works in, and links that nobody follows."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limelm.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file beside its place and rename it, so that there is the old file or the new one, never a half.

    Raises:
        UserError: where it cannot be written.
    """
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # what a kill left, or a link that somebody put there
        with partial.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # a name that outlives a power cut must not outlive its content
        partial.replace(path)
    except OSError as error:
        raise UserError.from_os_error(path, error) from error


def partial_of(path: Path) -> Path:
    """Where a file or folder is written before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def append_text(path: Path, text: str) -> None:
    """Add text at the end of a UTF-8 file, which is made where it is missing.

    Raises:
        UserError: where it cannot be written, or is a symbolic link.
    """
    try:
        with open(path, "a", encoding="utf-8", opener=_no_follow) as stream:
            stream.write(text)
    except OSError as error:
        raise _refused(path, error) from error


def is_dir(path: str | Path) -> bool:
    """Whether there is such a folder; there is none for a name that the system refuses, as one too long."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; there is none for a name that the system refuses, as one too long."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def refuse_links(folder: Path, but: tuple[str, ...] = ()) -> None:
    """Refuse a folder in which results would be written through a symbolic link, to a place that nobody named.

    Args:
        folder: of results, with all that is below it; one that is missing has no links.
        but: names in `folder` that are only read, and may be links.

    Raises:
        UserError: for the first link.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not (parent == str(folder) and name in but):
                raise UserError(f"{path}: a symbolic link, through which results would be written; remove it")


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
        stream = open(path, "a", opener=_no_follow)  # noqa: SIM115
    except OSError as error:
        raise _refused(path, error) from error
    with stream:
        if importlib.util.find_spec("fcntl"):  # not on Windows
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(taken) from None
        yield


def _no_follow(path: str, flags: int) -> int:
    """An opener for `open` (`Path.open` takes none) that refuses a symbolic link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _refused(path: Path, error: OSError) -> UserError:
    if path.is_symlink():
        return UserError(f"{path}: a symbolic link, which is not written through; remove it")
    return UserError.from_os_error(path, error)
