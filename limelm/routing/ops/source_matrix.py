"""Sources as the rows of one matrix, read where they lie.

A source is r rows `[r, X]`: r = 1 for a representation (X = tokens x D), r = G for the heads of a layer (X = 2 x tokens
x d, keys before values). To mix sources is then one small matrix product over rows. Sources that lie one after the
other in one buffer are such a matrix already; others are brought together chunk by chunk, in a cache-sized copy.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

CPU_CHUNK_BYTES = 8 * 2**20  # dev/LOG.md has the measurement
ROW_PADDING = 64  # elements between rows, so that their starts do not all fall on the same cache set


def empty_rows(rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """An uninitialized matrix `[rows, columns]` whose rows do not start a power of two apart."""
    return like.new_empty(rows, columns + ROW_PADDING, dtype=dtype)[:, :columns]


def as_one(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks of rows `[rows, X]` as one matrix `[all rows, X]`: a copy, unless there is one block."""
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks))


class SourceMatrix:
    """Blocks of rows `[rows, X]`, the oldest first, as one matrix of which column ranges can be read."""

    def __init__(self, blocks: Sequence[Tensor]):
        self.columns = blocks[0].shape[1]
        self.blocks = blocks

    def read(self, start: int, stop: int) -> Tensor:
        """Columns `[all rows, stop - start]`: a view where the rows lie in one block, else a copy."""
        return as_one([block[:, start:stop] for block in self.blocks])

    def pieces(self, columns: int) -> list[tuple[int, int]]:
        """Ranges of `columns` columns to read one after the other: all at once if that is a view, else cache-sized."""
        if len(self.blocks) == 1:
            return [(0, columns)]
        first = self.blocks[0]
        return _ranges(columns, sum(map(len, self.blocks)) * first.element_size(), cuts_on(first.device).chunk_bytes)


@functools.cache
def chunk_bytes(device: torch.device) -> int:
    """The bytes that a chunk may occupy: on CUDA half of the L2 cache."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size // 2
    return CPU_CHUNK_BYTES


@dataclass(frozen=True)
class Cuts:
    """How the work of a device is cut.

    Attributes:
        chunk_bytes: what a chunk may occupy.
        in_blocks: whether narrow products go block by block.
        first_only: do the first chunk's work alone. All chunks take the same memory, one after the other, so one tells
            how much; what is computed is wrong.
    """

    chunk_bytes: int
    in_blocks: bool
    first_only: bool = False


_assumed_cuts: ContextVar[Cuts | None] = ContextVar("assumed_cuts", default=None)


@contextmanager
def assume_cuts(cuts: Cuts) -> Iterator[None]:
    """Cut all work like this, whatever its device, to learn what memory it would take on another."""
    token = _assumed_cuts.set(cuts)
    try:
        yield
    finally:
        _assumed_cuts.reset(token)


def cuts_on(device: torch.device) -> Cuts:
    """How the work of `device` is cut, or what `assume_cuts` says."""
    return _assumed_cuts.get() or Cuts(chunk_bytes(device), in_blocks=device.type == "cpu")


def chunks(total: int, bytes_each: int, device: torch.device) -> list[tuple[int, int]]:
    """Ranges [start, stop) over `total` tokens or columns: as few as fit the cache, all of one length but the last."""
    cuts = cuts_on(device)
    ranges = _ranges(total, bytes_each, cuts.chunk_bytes)
    return ranges[:1] if cuts.first_only else ranges


def _ranges(total: int, bytes_each: int, chunk_bytes: int) -> list[tuple[int, int]]:
    number = -(-total * bytes_each // chunk_bytes)
    length = -(-total // max(1, number))
    return [(start, min(start + length, total)) for start in range(0, total, length)]


def runs(source_ids: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of sources: (first column, column after the last, first source); of `[0, 1, 5, 6]` (0, 2, 0), (2, 4, 5)."""
    found: list[tuple[int, int, int]] = []
    for column, source in enumerate(source_ids):
        if found and source == found[-1][2] + column - found[-1][0]:
            found[-1] = (found[-1][0], column + 1, found[-1][2])
        else:
            found.append((column, column + 1, source))
    return found
