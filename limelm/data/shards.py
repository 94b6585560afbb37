"""Token shards on disk: `manifest.json`, `tokenizer/`, and the flat files of token ids that the manifest names.

Folders come from other people too, so the manifest is read strictly: nothing in it decides more than how many tokens,
in one of two types, lie in which file of the same folder.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from limelm.errors import UserError
from limelm.files import write_text
from limelm.records import Count, FileName, Positive, Sha256, at_most, build, load_json

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
SPLITS = ("train", "validation")


@dataclass
class Shard:
    """One file of token ids."""

    file: FileName
    tokens: Positive
    sha256: Sha256


@dataclass
class Split:
    """The shards of one split, in order; `bytes` counts its text in UTF-8."""

    documents: Count
    tokens: Count
    bytes: Count
    shards: list[Shard]


@dataclass
class Manifest:
    """The content of a prepared folder.

    Raises:
        ValueError: for values that contradict each other.
    """

    source: str
    vocab_size: Annotated[Positive, at_most(2**32)]
    bos_token_id: Count
    eos_token_id: Count
    tokenizer_sha256: Sha256
    dtype: Literal["uint16", "uint32"]
    splits: dict[str, Split]
    format_version: Literal[1] = 1

    def __post_init__(self) -> None:
        if sorted(self.splits) != sorted(SPLITS):
            raise ValueError(f"splits must be {' and '.join(SPLITS)}, not {', '.join(self.splits) or 'none'}")
        for field in ("bos_token_id", "eos_token_id"):
            if getattr(self, field) >= self.vocab_size:
                raise ValueError(f"{field}={getattr(self, field)} must be less than vocab_size={self.vocab_size}")
        if self.dtype == "uint16" and token_dtype(self.vocab_size) != "uint16":
            raise ValueError(f"dtype='uint16' has no room for vocab_size={self.vocab_size}; allowed: 'uint32'")
        for name, split in self.splits.items():
            in_shards = sum(shard.tokens for shard in split.shards)
            if split.tokens != in_shards:
                raise ValueError(f"splits.{name}.tokens={split.tokens} must be the sum of its shards, {in_shards}")

    @property
    def content_sha256(self) -> str:
        """A hash of everything that training sees: the tokenizer, the dtype, and every shard in order."""
        digest = hashlib.sha256(f"{self.tokenizer_sha256} {self.dtype}".encode())
        for name in SPLITS:
            for shard in self.splits[name].shards:
                digest.update(f" {name} {shard.tokens} {shard.sha256}".encode())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write `manifest.json`.

        Raises:
            UserError: where it cannot be written.
        """
        content = {**asdict(self), "content_sha256": self.content_sha256}
        write_text(folder / MANIFEST, json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read `manifest.json`.

        Raises:
            UserError: where `folder` was not made by `limelm data prepare`, or by another version of it.
        """
        path = folder / MANIFEST
        if not path.exists():
            raise UserError(f"{folder}: not a folder made by `limelm data prepare` (no {MANIFEST})")
        content = load_json(path)
        if isinstance(content, dict):
            version = content.get("format_version")
            if version != 1:
                raise UserError(f"{path}: format_version={version!r}; this limelm reads 1")
            recorded = build(Sha256, content.pop("content_sha256", None), str(path), "content_sha256")
        manifest: Manifest = build(cls, content, str(path))
        if manifest.content_sha256 != recorded:
            raise UserError(f"{path}: content_sha256 does not match what the manifest says; prepare the data again")
        return manifest


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The smallest unsigned type that holds every token id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"
