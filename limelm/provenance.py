"""How what is written was made, in words that others may read."""

import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path


def provenance() -> dict[str, str | None]:
    """How what is being written was made.

    Returns:
        `command`, this process's, with folders and files elsewhere by their last name alone; `date`, in UTC; and
        `commit` of limelm's clone, with "-dirty" where files differ from it (None where it is no clone).
    """
    return {
        "command": published_command(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(Path(__file__).parents[1]),
    }


def published_command(arguments: list[str]) -> str:
    """A command line as others may read it: paths of this machine are cut down to their last name."""
    program = Path(arguments[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *map(_without_folders, arguments[1:])])


def published_name(path: str) -> str:
    """What others may read of a folder, file or hub name: the last name of a path of this machine, a hub name whole."""
    return Path(path).resolve().name if Path(path).is_absolute() or Path(path).exists() else path


def _without_folders(argument: str) -> str:
    option, equals, value = argument.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={published_name(value)}"
    return argument if argument.startswith("-") else published_name(argument)


def _commit(clone: Path) -> str | None:
    if not (clone / ".git").exists():
        return None
    command = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git here, or a clone of somebody else
        return None
    return described.stdout.strip()
