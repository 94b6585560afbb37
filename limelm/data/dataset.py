"""Prepared token shards as a map-style data set of equally long sequences."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from limelm.data.shards import TOKENIZER, Manifest, open_shard, verify_tokenizer
from limelm.data.tokenization import load_document_tokenizer
from limelm.errors import UserError


class TokenDataset(Dataset):
    """One split, cut into sequences of `sequence_length` tokens; what is left at the end is dropped.

    Item i is `{"input_ids": [T], "labels": [T]}`, tokens iT ... (i+1)T - 1 of the split. Labels are the ids themselves:
    the model shifts them.

    Args:
        verify: compare the shards with their hashes, which reads all of them once.

    Raises:
        UserError: where a shard is missing or not what the manifest says, or the split has no full sequence.
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
        self.shards = [open_shard(folder, shard, manifest.dtype, verify) for shard in manifest.splits[split].shards]
        self.shard_ends = np.cumsum([len(shard) for shard in self.shards])

    def __len__(self) -> int:
        return self.tokens // self.sequence_length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        start = index * self.sequence_length
        ids = torch.from_numpy(self._read(start, start + self.sequence_length).astype(np.int64))
        return {"input_ids": ids, "labels": ids}

    def _read(self, start: int, end: int) -> np.ndarray:
        """Tokens `start ... end - 1` of the split, from as many shards as they lie in."""
        parts = []
        while start < end:
            number = int(np.searchsorted(self.shard_ends, start, side="right"))
            shard, shard_end = self.shards[number], int(self.shard_ends[number])
            stop = min(end, shard_end)
            parts.append(shard[len(shard) - (shard_end - start) : len(shard) - (shard_end - stop)])
            start = stop
        return np.concatenate(parts)


def load_prepared_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that a prepared folder's shards were made with.

    Raises:
        UserError: where it is missing or another one.
    """
    manifest = Manifest.load(folder)
    verify_tokenizer(folder, manifest)
    tokenizer = load_document_tokenizer(str(folder / TOKENIZER))
    if len(tokenizer) != manifest.vocab_size:
        raise UserError(
            f"{folder}: vocab_size={manifest.vocab_size} in the manifest, {len(tokenizer)} in the tokenizer"
        )
    return tokenizer
