"""Token shards on disk: flat files of token ids that are memory-mapped, and the manifest that describes them.

A prepared folder holds `manifest.json`, `tokenizer/`, and the shards `train-00000.bin`, `validation-00000.bin`, ...
"""

import functools
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from limelm.data.tokenization import tokenizer_sha256
from limelm.errors import UserError

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
FORMAT_VERSION = 1
SPLITS = ("train", "validation")


@dataclass
class Shard:
    """One file of token ids."""

    file: str
    tokens: int
    sha256: str


@dataclass
class Split:
    """The shards of one split, in order."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0  # of UTF-8 text
    shards: list[Shard] = field(default_factory=list)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Split":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**content, "shards": [Shard(**shard) for shard in content["shards"]]})


@dataclass
class Manifest:
    """What a prepared folder holds."""

    source: str
    vocab_size: int
    bos_token_id: int
    eos_token_id: int
    tokenizer_sha256: str
    dtype: str
    splits: dict[str, Split]
    format_version: int = FORMAT_VERSION

    @property
    def content_sha256(self) -> str:
        """One hash for all that training sees: the tokenizer, the dtype, and every shard in its order."""
        digest = hashlib.sha256(f"{self.tokenizer_sha256} {self.dtype}".encode())
        for name in SPLITS:
            for shard in self.splits[name].shards:
                digest.update(f" {name} {shard.tokens} {shard.sha256}".encode())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write `manifest.json`."""
        content = {**asdict(self), "content_sha256": self.content_sha256}
        (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read `manifest.json`.

        Raises:
            UserError: where `folder` was not made by `limelm data prepare`, or by a later version of it.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format_version"] != FORMAT_VERSION:
                raise UserError(
                    f"{path}: format_version={content['format_version']}; this limelm reads {FORMAT_VERSION}"
                )
            recorded = content.pop("content_sha256")
            content["splits"] = {name: Split.from_dict(split) for name, split in content["splits"].items()}
            manifest = cls(**content)
            if manifest.content_sha256 != recorded:
                raise UserError(f"{path}: content_sha256 does not match what the manifest says; prepare the data again")
        except OSError as error:
            raise UserError(f"{folder}: not a folder made by `limelm data prepare` (no readable {MANIFEST})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: broken manifest ({type(error).__name__}: {error})") from error
        return manifest


def token_dtype(vocab_size: int) -> str:
    """The smallest unsigned type that holds every token id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def open_shard(folder: Path, shard: Shard, dtype: str, verify: bool = True) -> np.ndarray:
    """Memory-map one shard, `[tokens]`.

    Args:
        verify: compare its hash, which reads all of it.

    Raises:
        UserError: where the file is missing, or has another size or hash than in the manifest.
    """
    path = folder / shard.file
    try:
        size = path.stat().st_size
        if size != shard.tokens * np.dtype(dtype).itemsize:
            raise UserError(f"{path}: {size} bytes, but the manifest says {shard.tokens} tokens of {dtype}")
        if verify and _sha256_once(path, size, path.stat().st_mtime_ns) != shard.sha256:
            raise UserError(f"{path}: its hash is not the manifest's {shard.sha256[:12]}…; prepare the data again")
        return np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
        raise UserError.from_os_error(path, error) from error


def verify_tokenizer(folder: Path, manifest: Manifest) -> None:
    """Check the saved tokenizer against the manifest.

    Raises:
        UserError: where it is missing or not the one that the shards were made with.
    """
    try:
        found = tokenizer_sha256(folder / TOKENIZER)
    except OSError as error:
        raise UserError.from_os_error(folder / TOKENIZER, error) from error
    if found != manifest.tokenizer_sha256:
        raise UserError(f"{folder / TOKENIZER}: not the tokenizer that the shards were made with")


@functools.lru_cache(maxsize=4096)
def _sha256_once(path: Path, size: int, changed: int) -> str:
    """The hash of a shard that several trainings of one process open; computed again when the file has changed."""
    return file_sha256(path)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class SplitWriter:
    """Writes one split's shards, one after the other.

    Args:
        state: where an earlier writer's `flush` stood; what it wrote later is dropped.

    Raises:
        UserError: where the shards that `state` knows are not there.
    """

    def __init__(self, folder: Path, name: str, dtype: str, tokens_per_shard: int, state: dict[str, Any] | None = None):
        self.folder, self.name, self.itemsize = folder, name, np.dtype(dtype).itemsize
        self.tokens_per_shard = tokens_per_shard
        self.split = Split.from_dict(state["split"]) if state else Split()
        self._tokens: int = state["open_tokens"] if state else 0  # in the open shard
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

    def flush(self) -> dict[str, Any]:
        """Bring all that was added to the disk; returns the state to go on from."""
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        return {"split": asdict(self.split), "open_tokens": self._tokens}

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
        """Let go of the open shard; what `flush` did not bring to the disk may be there or not."""
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
