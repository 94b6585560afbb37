"""What stops a preparation without being wrong input."""

from collections.abc import Iterator
from contextlib import contextmanager

from limelm.errors import UserError


class Interruption(UserError):
    """Something outside the text gave way, such as the network or a disk: what is done is kept, to go on from."""


@contextmanager
def interrupted_by_disk() -> Iterator[None]:
    """Around what writes files: where that fails, it is an interruption."""
    try:
        yield
    except UserError as error:
        raise Interruption(str(error)) from error
