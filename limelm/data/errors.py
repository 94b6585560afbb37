"""Errors that stop a preparation although the input was right."""

from collections.abc import Iterator
from contextlib import contextmanager

from limelm.errors import UserError


class Interruption(UserError):
    """A failure outside the text, such as of the network or a disk; the work done so far is kept, to go on from."""


@contextmanager
def interrupted_by_disk() -> Iterator[None]:
    """A context in which failing to write a file counts as an interruption."""
    try:
        yield
    except UserError as error:
        raise Interruption(str(error)) from error
