"""List the files that a user means: named files, and all files below named folders, also through symbolic links."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from limelm.errors import UserError

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Listing:
    """The text files that were found, and the files of other kinds beside them."""

    files: list[Path]
    others: list[Path]


def list_files(paths: list[Path]) -> list[Path]:
    """The text files that `paths` name, as `find_files` finds them."""
    return find_files(paths).files


def find_files(paths: list[Path]) -> Listing:
    """Find named files, and all files below named folders, in alphabetical order.

    Symbolic links are followed. What several links lead to is taken once, at the first of these paths; a link to a
    folder that holds the link itself is not followed.

    Raises:
        UserError: for a path that is missing or has no readable suffix, a folder without any such file, and whatever
            below a folder cannot be read.
    """
    texts: dict[Path, Path] = {}
    others: dict[Path, Path] = {}
    for path in paths:
        below = list(_files_below(path)) if stat.S_ISDIR(_mode(path)) else [path]
        fitting = {file for file in below if file.name.lower().endswith(SUFFIXES)}
        if not fitting:
            suffixes = ", ".join(SUFFIXES)
            if below == [path]:
                raise UserError(f"{path}: cannot read this kind of file; allowed: {suffixes}")
            raise UserError(f"{path}: no file ending in {suffixes} in this folder")
        for file in below:
            (texts if file in fitting else others).setdefault(file.resolve(), file)
    for file in texts.values():
        if not stat.S_ISREG(_mode(file)):
            raise UserError(f"{file}: neither a file nor a folder")
    return Listing(list(texts.values()), list(others.values()))


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder that is no folder, in alphabetical order; no folder is entered twice."""
    entered: set[Path] = set()
    stack = [folder]
    while stack:
        path = stack.pop()
        if not stat.S_ISDIR(_mode(path)):
            yield path
            continue
        real = path.resolve()
        if real in entered or (path.is_symlink() and path.parent.resolve().is_relative_to(real)):
            continue
        entered.add(real)
        try:
            stack += sorted(path.iterdir(), reverse=True)
        except OSError as error:
            raise UserError.from_os_error(path, error) from error


def _mode(path: Path) -> int:
    """The file mode of what a path leads to, behind links."""
    try:
        return path.stat().st_mode
    except FileNotFoundError as error:
        what = "a link to nothing" if path.is_symlink() else "no such file or folder"
        raise UserError(f"{path}: {what}") from error
    except OSError as error:
        raise UserError.from_os_error(path, error) from error
