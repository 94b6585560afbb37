"""Prepared token shards as a map-style data set of equally long sequences."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from limelm.data.mapped import MappedShard
from limelm.data.shards import MANIFEST, TOKENIZER, Manifest
from limelm.data.tokenization import load_document_tokenizer, tokenizer_sha256
from limelm.errors import UserError
from limelm.tokenizers import check_tokenizer

CHUNK = 2**20  # tokens


class TokenDataset(Dataset):
    """One split, cut into sequences of `sequence_length` tokens; what is left at the end is dropped.

    Item i is `{"input_ids": [T], "labels": [T]}`, tokens iT ... (i+1)T - 1 of the split. Labels are the ids themselves:
    the model shifts them.

    Args:
        verify: compare the shards with their hashes, and their ids with the vocabulary, which reads all of them once.

    Raises:
        UserError: where a shard is missing or not what the manifest says, or the split has no full sequence. Also when
            an item is read, where a shard has been changed meanwhile.
    """

    def __init__(self, folder: Path, split: str, sequence_length: int, verify: bool = True):
        manifest = Manifest.load(folder)
        self.split, self.sequence_length = split, sequence_length
        self.tokens = sum(shard.tokens for shard in manifest.splits[split].shards)
        if len(self) == 0:
            raise UserError(
                f"{folder}: the {split} split has {self.tokens} tokens, fewer than one sequence of {sequence_length}; "
                "give more text or a shorter sequence_length"
            )
        self._shards = [MappedShard(folder, shard, manifest, verify) for shard in manifest.splits[split].shards]
        self._shard_ends = np.cumsum([len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return self.tokens // self.sequence_length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        start = index * self.sequence_length
        ids = torch.from_numpy(self._read(start, start + self.sequence_length).astype(np.int64))
        return {"input_ids": ids, "labels": ids}

    def chunks(self, tokens: int = CHUNK) -> Iterator[np.ndarray]:
        """Yield all token ids of the split in order, at most `tokens` at a time, whatever the documents' ends."""
        for start in range(0, self.tokens, tokens):
            yield self._read(start, min(start + tokens, self.tokens))

    def check_unchanged(self) -> None:
        """Refuse shards that have been overwritten since they were opened.

        Raises:
            UserError: for the first of them.
        """
        for shard in self._shards:
            shard.check_unchanged()

    def _read(self, start: int, end: int) -> np.ndarray:
        """Tokens `start ... end - 1` of the split, from as many shards as they lie in."""
        parts = []
        while start < end:
            number = int(np.searchsorted(self._shard_ends, start, side="right"))
            shard, shard_end = self._shards[number], int(self._shard_ends[number])
            stop = min(end, shard_end)
            parts.append(shard.read(len(shard) - (shard_end - start), len(shard) - (shard_end - stop)))
            start = stop
        return np.concatenate(parts)


def load_prepared_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that a prepared folder's shards were made with.

    Raises:
        UserError: where it is missing or another one.
    """
    manifest = Manifest.load(folder)
    if tokenizer_sha256(folder / TOKENIZER) != manifest.tokenizer_sha256:
        raise UserError(f"{folder / TOKENIZER}: not the tokenizer that the shards were made with")
    tokenizer = load_document_tokenizer(str(folder / TOKENIZER))
    found = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    for field, value in found.items():
        if value != getattr(manifest, field):
            raise UserError(
                f"{folder}: {field}={getattr(manifest, field)} in the manifest, {value} in the tokenizer; prepare the "
                "data again"
            )
    return tokenizer


def are_shards(path: Path) -> bool:
    """Whether a path is a folder of token shards; any other path is taken for text."""
    return (path / MANIFEST).exists()


def check_shards(folder: Path, tokenizer: PreTrainedTokenizerBase, model: str = "the model") -> None:
    """Refuse token shards that were made with another tokenizer than `model`'s.

    Raises:
        UserError: where they were, or their own tokenizer is not there.
    """
    check_tokenizer(folder, load_prepared_tokenizer(folder), tokenizer, model, "give text instead")
