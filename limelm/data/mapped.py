"""Token shards, mapped into memory.

A map reads zeros, or ends the process, where its file has been cut off since: every reading looks at the file's size.
"""

import functools
import hashlib
import mmap
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from limelm.data.shards import Manifest, Shard
from limelm.errors import UserError

_CHUNK = 2**20  # bytes, a multiple of the size of a token


class MappedShard:
    """The token ids of one shard, `[tokens]`.

    Args:
        manifest: of the folder; says the type of the ids, and their bound.
        verify: read all of the file once, and compare its hash, and its largest id with the vocabulary.

    Raises:
        UserError: where the file is missing, lies elsewhere, or is not what the manifest says.
    """

    def __init__(self, folder: Path, shard: Shard, manifest: Manifest, verify: bool = True):
        self.path, self.tokens, self.vocab_size = folder / shard.file, shard.tokens, manifest.vocab_size
        self._shard, self._dtype, self._manifest = shard, manifest.dtype, manifest
        self._bytes = shard.tokens * np.dtype(manifest.dtype).itemsize
        try:
            if self.path.resolve().parent != folder.resolve():
                raise UserError(f"{self.path}: a link to another folder; allowed: a file in the folder itself")
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise UserError(f"{self.path}: not a file")
            with self.path.open("rb") as stream:
                found = os.fstat(stream.fileno())
                if found.st_size != self._bytes:
                    raise UserError(
                        f"{self.path}: {found.st_size} bytes, but the manifest says {shard.tokens} tokens of "
                        f"{manifest.dtype}"
                    )
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._opened_as = _file_state(found)
            if verify:
                self._verify(self._opened_as)
        except OSError as error:
            raise UserError.from_os_error(self.path, error) from error
        self._ids = np.frombuffer(self._map, manifest.dtype)

    def __len__(self) -> int:
        return self.tokens

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as an instruction to open the file again: a memory map cannot be sent to another process."""
        return type(self), (self.path.parent, self._shard, self._manifest, False)

    def read(self, start: int, stop: int) -> np.ndarray:
        """A copy of the ids `start ... stop - 1`.

        Raises:
            UserError: where the file has been changed since it was opened.
        """
        self._check_size()
        ids = self._ids[start:stop].copy()
        self._check_size()
        if ids.size and ids.max() >= self.vocab_size:
            raise self._beyond(int(ids.max()))
        return ids

    def check_unchanged(self) -> None:
        """Compare the file with its hash again, unless neither its size nor its time has changed since it was opened.

        Raises:
            UserError: where it is another one.
        """
        try:
            state = _file_state(self.path.stat())
            if state != self._opened_as:
                self._verify(state)
        except OSError as error:
            raise UserError.from_os_error(self.path, error) from error

    def _verify(self, state: tuple[int, ...]) -> None:
        sha256, largest = _measure(self.path, self._dtype, state)
        if sha256 != self._shard.sha256:
            raise UserError(
                f"{self.path}: its hash is not the manifest's {self._shard.sha256[:12]}…; prepare the data again"
            )
        if largest >= self.vocab_size:
            raise self._beyond(largest)

    def _check_size(self) -> None:
        if self._map.size() != self._bytes:
            raise UserError(
                f"{self.path}: {self._map.size()} bytes, but {self._bytes} when it was opened; prepare the data again"
            )

    def _beyond(self, largest: int) -> UserError:
        return UserError(
            f"{self.path}: holds token id {largest}; allowed: less than the manifest's vocab_size={self.vocab_size}"
        )


def _file_state(found: os.stat_result) -> tuple[int, ...]:
    """The device, inode, size and time of a file, which change with its content."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=4096)
def _measure(path: Path, dtype: str, state: tuple[int, ...]) -> tuple[str, int]:
    """Measure a shard's hash and largest id; remembered within a process until the file changes."""
    digest, largest, itemsize = hashlib.sha256(), 0, np.dtype(dtype).itemsize
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            ids = np.frombuffer(chunk, dtype, count=len(chunk) // itemsize)
            largest = max(largest, int(ids.max(initial=0)))
    return digest.hexdigest(), largest
