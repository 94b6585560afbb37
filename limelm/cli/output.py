"""Print the results of a command: text for people, or one JSON document."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from limelm.errors import UserError
from limelm.text import printable


@dataclass(frozen=True)
class Output:
    """The results of a command.

    Attributes:
        text: for a terminal.
        facts: the same for programs, printed in its place with --json; its keys are the command's `KEYS`.
        failure: an error that ends the command after it has printed.
    """

    text: str
    facts: dict[str, Any]
    failure: UserError | None = None


def note(line: str) -> None:
    """Print a line for people beside the results: on stderr, as stdout holds nothing but these."""
    print(printable(line), file=sys.stderr)


@contextlib.contextmanager
def quiet_stdout(is_quiet: bool) -> Iterator[None]:
    """Send what libraries print on stdout to stderr, if `is_quiet`."""
    with contextlib.redirect_stdout(sys.stderr) if is_quiet else contextlib.nullcontext():
        yield


def as_json(facts: Any) -> str:
    """Write a JSON document of ASCII without control characters; numbers that are not finite become null."""
    return json.dumps(_plain(facts), indent=1, allow_nan=False).replace("\x7f", "\\u007f")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, PathLike):
        return fspath(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
