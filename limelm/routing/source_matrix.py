"""Sources as the rows of one matrix, read where they lie.

A source is a matrix of its own, `[r, X]`: r = 1 for a representation (X = tokens x D), r = G for the heads of a layer
(X = tokens x 2d). To mix sources is then one small matrix product over rows. Sources that are slices of one buffer at
equal distances already are such a matrix; others are brought together chunk by chunk, in a cache-sized copy.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

CPU_CHUNK_BYTES = 2 * 2**20  # docs/performance.md has the measurement
ROW_PADDING = 64  # elements between rows, so that their starts do not all fall on the same cache set


def empty_rows(rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """An uninitialised matrix `[rows, columns]` whose rows do not start a power of two apart."""
    return like.new_empty(rows, columns + ROW_PADDING, dtype=dtype)[:, :columns]


class SourceMatrix:
    """`n` sources `[r, X]`, the oldest first, as one matrix `[n r, X]` of which column ranges can be read."""

    def __init__(self, sources: Sequence[Tensor]):
        self.columns = sources[0].shape[1]
        self.blocks = _merge_neighbours(sources)

    def read(self, start: int, stop: int) -> Tensor:
        """Columns `[n r, stop - start]`: a view where the sources lie in one buffer, else a copy."""
        if len(self.blocks) == 1:
            return self.blocks[0][:, start:stop]
        return torch.cat([block[:, start:stop] for block in self.blocks])

    def pieces(self) -> list[tuple[int, int]]:
        """Column ranges to read one after the other: all at once where that is a view, else cache-sized."""
        if len(self.blocks) == 1:
            return [(0, self.columns)]
        first = self.blocks[0]
        return chunks(self.columns, sum(map(len, self.blocks)) * first.element_size(), first.device)


def _merge_neighbours(sources: Sequence[Tensor]) -> list[Tensor]:
    """As few `[rows, X]` views as there are runs of sources at equal distances in one storage."""
    blocks = [sources[0]]
    for source in sources[1:]:
        block = blocks[-1]
        if _continues(block, source):
            rows = block.shape[0] + source.shape[0]
            blocks[-1] = block.as_strided((rows, block.shape[1]), block.stride(), block.storage_offset())
        else:
            blocks.append(source)
    return blocks


def _continues(block: Tensor, source: Tensor) -> bool:
    """Whether `source`'s rows go on where `block`'s end."""
    if block.stride(1) != 1 or source.stride() != block.stride():
        return False
    if source.untyped_storage()._cdata != block.untyped_storage()._cdata:
        return False
    return source.storage_offset() == block.storage_offset() + block.shape[0] * block.stride(0)


@functools.cache
def chunk_bytes(device: torch.device) -> int:
    """What a chunk may occupy: on CUDA half of the L2 cache."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size // 2
    return CPU_CHUNK_BYTES


def chunks(total: int, bytes_each: int, device: torch.device) -> list[tuple[int, int]]:
    """Ranges [start, stop) over `total` tokens or columns: as few as fit the cache, all of one length but the last."""
    number = -(-total * bytes_each // chunk_bytes(device))
    length = -(-total // max(1, number))
    return [(start, min(start + length, total)) for start in range(0, total, length)]


def runs(slots: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of slots as (first column, column after the last, first slot): `[0, 1, 5, 6] -> [(0, 2, 0), (2, 4, 5)]`."""
    found: list[tuple[int, int, int]] = []
    for column, slot in enumerate(slots):
        if found and slot == found[-1][2] + column - found[-1][0]:
            found[-1] = (found[-1][0], column + 1, found[-1][2])
        else:
            found.append((column, column + 1, slot))
    return found
