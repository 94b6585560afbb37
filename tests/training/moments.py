"""Every moment at which a process may be killed: just before a file gets its name."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

_watched: list[tuple[Path, Callable[[Path], None]]] = []


def _audit(event: str, arguments: tuple) -> None:
    if event == "os.rename":
        for folder, seen in list(_watched):
            target = Path(arguments[1])
            if target.is_relative_to(folder):
                seen(target)


sys.addaudithook(_audit)  # cannot be taken back, so there is one for all tests


class Moments:
    """While active, copies of a folder as a kill would leave it: one before each file in it gets its name.

    Attributes:
        copies: by number, the name that was about to be given and the copy.
    """

    def __init__(self, folder: Path, copies: Path, names: set[str]):
        self.folder, self.target, self.names = folder, copies, names
        self.copies: list[tuple[str, Path]] = []

    def __enter__(self) -> "Moments":
        self._entry = (self.folder, self._seen)
        _watched.append(self._entry)
        return self

    def __exit__(self, *exception) -> None:
        _watched.remove(self._entry)

    def _seen(self, target: Path) -> None:
        if target.name in self.names:
            copy = self.target / f"{len(self.copies):03d}-before-{target.name}"
            shutil.copytree(self.folder, copy)
            self.copies.append((target.name, copy))
