"""Write files whole or not at all, let one process at a time work in a folder, and follow no symbolic links."""

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limelm.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file under another name and rename it, so that it is never half-written.

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
    """The path at which a file or folder is written before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def append_text(path: Path, text: str) -> None:
    """Append text to a UTF-8 file, which is created if it is missing.

    Raises:
        UserError: where it cannot be written, or is a symbolic link.
    """
    try:
        with open(path, "a", encoding="utf-8", opener=_no_follow) as stream:
            stream.write(text)
    except OSError as error:
        raise _refused(path, error) from error


def is_dir(path: str | Path) -> bool:
    """Whether a path is a folder; False for a name that the system refuses, such as one that is too long."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: str | Path) -> bool:
    """Whether a path is a file; False for a name that the system refuses, such as one that is too long."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def refuse_links(folder: Path) -> None:
    """Refuse a folder in which results would be written through a symbolic link.

    Args:
        folder: of results, with all that is below it; one that is missing has no links.

    Raises:
        UserError: for the first link.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                raise UserError(f"{path}: a symbolic link, through which results would be written; remove it")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """Make an empty folder that is renamed to `out` if all goes well, and removed if not."""
    partial = partial_of(out)
    if partial.is_symlink():
        partial.unlink()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()  # empty
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def lock(path: Path, taken: str) -> Iterator[None]:
    """Hold a lock that keeps other processes out; the system releases it with the process, however that ends.

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
    """An opener for `open` that refuses a symbolic link (`Path.open` takes no opener)."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _refused(path: Path, error: OSError) -> UserError:
    if path.is_symlink():
        return UserError(f"{path}: a symbolic link, which is not written through; remove it")
    return UserError.from_os_error(path, error)
