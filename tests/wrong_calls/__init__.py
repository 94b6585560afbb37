"""Hundreds of wrong calls and broken files: each must end in one line that says what is wrong (`make wrong-calls`)."""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tests.wrong_calls.case import Case


def all_cases() -> Iterator[Case]:
    """Every wrong call, subject by subject."""
    from tests.wrong_calls import arguments, checkpoints, python_api, runs, tokens

    return chain.from_iterable(module.cases() for module in (arguments, tokens, checkpoints, runs, python_api))


def make_fixtures(folder: Path) -> None:
    """Make the fixtures, in a process of its own: what it has imported and patched must not be seen by the calls."""
    if folder.exists():
        return
    if (child := os.fork()) == 0:
        code = 1
        try:
            from tests.wrong_calls.fixtures import make

            make(folder)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, "the fixtures could not be made"
