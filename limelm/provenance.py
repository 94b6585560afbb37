"""The provenance of files: command, date and commit, without paths of this machine."""

import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path


def provenance() -> dict[str, str | None]:
    """The provenance of the file that is being written.

    Returns:
        `command`, this process's, with what lies outside the working folder by its last name alone; `date`, in UTC; and
        `commit` of limelm's clone, with "-dirty" where files differ from it (None where it is no clone).
    """
    return {
        "command": published_command(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(Path(__file__).parents[1]),
    }


def published_command(arguments: list[str]) -> str:
    """A command line as others may read it (see `shown_path`)."""
    program = Path(arguments[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *map(_without_folders, arguments[1:])])


def shown_path(path: str | Path) -> str:
    """A path as published files name it: without what is of this machine alone.

    A relative path (and a name on the Hugging Face hub) stays as it is; of one that is absolute, or leads out of the
    working folder, the last name is left.
    """
    is_of_machine = Path(path).is_absolute() or ".." in Path(path).parts
    return Path(os.path.normpath(Path.cwd() / path)).name if is_of_machine else str(path)


def _without_folders(argument: str) -> str:
    option, equals, value = argument.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={shown_path(value)}"
    return argument if argument.startswith("-") else shown_path(argument)


def _commit(clone: Path) -> str | None:
    if not (clone / ".git").exists():
        return None
    command = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git here, or a clone of somebody else
        return None
    return described.stdout.strip()
