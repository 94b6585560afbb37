"""Write token shards."""

import copy
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from limelm.data.shards import Shard, Split
from limelm.errors import UserError
from limelm.files import file_sha256
from limelm.records import Count


@dataclass
class WriterState:
    """The position up to which a split is written; `open_tokens` counts the tokens of an unfinished last shard."""

    split: Split
    open_tokens: Count


class SplitWriter:
    """Writes one split's shards, one after the other.

    Args:
        state: where an earlier writer's `flush` stood; what it wrote later is dropped.

    Raises:
        UserError: where the shards that `state` knows are not there.
    """

    def __init__(self, folder: Path, name: str, dtype: str, tokens_per_shard: int, state: WriterState | None = None):
        self.folder, self.name, self.itemsize = folder, name, np.dtype(dtype).itemsize
        self.tokens_per_shard = tokens_per_shard
        self.split = copy.deepcopy(state.split) if state else Split(documents=0, tokens=0, bytes=0, shards=[])
        self._tokens = state.open_tokens if state else 0  # in the open shard
        self._stream: BinaryIO | None = None
        self._drop_what_came_later()

    def add(self, document: np.ndarray, text_bytes: int) -> None:
        """Append one document's token ids `[tokens]`, BOS and EOS included, in the shards' dtype."""
        if self._stream is None:
            self._stream = self._path(len(self.split.shards)).open("ab")
        self._stream.write(document.data)
        self._tokens += len(document)
        self.split.documents += 1
        self.split.tokens += len(document)
        self.split.bytes += text_bytes
        if self._tokens >= self.tokens_per_shard:
            self.close()

    def flush(self) -> WriterState:
        """Bring all added tokens to the disk; returns the state to go on from."""
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        return WriterState(copy.deepcopy(self.split), self._tokens)

    def close(self) -> None:
        """Finish the open shard."""
        if self._tokens:
            self.flush()
            if self._stream is not None:
                self._stream.close()
            path = self._path(len(self.split.shards))
            self.split.shards.append(Shard(path.name, self._tokens, file_sha256(path)))
            self._stream, self._tokens = None, 0

    def abandon(self) -> None:
        """Abandon the open shard; tokens that `flush` did not bring to the disk may be lost."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:05d}.bin"

    def _drop_what_came_later(self) -> None:
        lengths = {self.folder / shard.file: shard.tokens * self.itemsize for shard in self.split.shards}
        if self._tokens:
            lengths[self._path(len(lengths))] = self._tokens * self.itemsize
        for path in self.folder.glob(f"{self.name}-*.bin"):
            if path not in lengths:
                path.unlink()
        for path, length in lengths.items():
            size = path.stat().st_size if path.exists() else 0
            if size < length:
                raise UserError(f"{path}: {size} bytes, but {length} were written; remove this folder to begin anew")
            os.truncate(path, length)
