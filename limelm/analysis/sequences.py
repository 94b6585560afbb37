"""The token sequences that a model is analyzed on, from token shards or from text, read again for every pass."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limelm.data.dataset import TokenDataset, are_shards, check_shards
from limelm.data.listing import list_files
from limelm.data.shards import Manifest
from limelm.data.sources import LocalFiles
from limelm.errors import UserError

ORDER_SEED = 0


class Sequences:
    """Sequences of `length` tokens, always the same in the same order; memory does not grow with the data.

    Args:
        data: folders of token shards (one), or files and folders of text.
        tokenizer: the model's.
        length: T.
        model: its name, for errors.
        verify: whether shards are compared with their manifest, which reads all of the validation split.

    Raises:
        UserError: for data that cannot be read, shards made with another tokenizer, or less than one sequence.
    """

    def __init__(
        self,
        data: list[Path],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        model: str = "the model",
        verify: bool = True,
    ):
        self.length = length
        self.data = data
        self._shards: list[TokenDataset] = []
        if len(data) == 1 and are_shards(data[0]):
            check_shards(data[0], tokenizer, model)
            self._open_shards(data[0], verify)
        else:
            self._source = LocalFiles(list_files(data))
            self._tokenizer = tokenizer
            if next(self.everything(), None) is None:
                raise UserError(
                    f"{', '.join(map(str, data))}: fewer tokens than one sequence of {length}; give more text"
                )

    def sample(self) -> Iterator[Tensor]:
        """Yield sequences `[T]`: the validation split of shards in a fixed shuffled order, or a whole text in order."""
        return self._shuffled(self._shards[0]) if self._shards else self.everything()

    def everything(self) -> Iterator[Tensor]:
        """Yield the sequences `[T]` of `sample`, then those of the training split of shards."""
        if not self._shards:
            yield from self._from_text()
        for split in self._shards:
            yield from self._shuffled(split)

    def _open_shards(self, folder: Path, verify: bool) -> None:
        self._shards.append(TokenDataset(folder, "validation", self.length, verify=verify))
        if Manifest.load(folder).splits["train"].tokens >= self.length:  # else there is the other
            self._shards.append(TokenDataset(folder, "train", self.length, verify=False))

    @staticmethod
    def _shuffled(split: TokenDataset) -> Iterator[Tensor]:
        for index in np.random.default_rng(ORDER_SEED).permutation(len(split)):
            yield split[int(index)]["input_ids"]

    def _from_text(self) -> Iterator[Tensor]:
        """Yield sequences of documents end to end, each between the tokenizer's BOS and EOS, as in training."""
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        left: list[int] = []
        for text in self._source.open():
            ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
            left += [token for token in (bos, *ids, eos) if token is not None]
            whole = len(left) - len(left) % self.length
            for start in range(0, whole, self.length):
                yield torch.tensor(left[start : start + self.length])
            left = left[whole:]


def batches(sequences: Iterator[Tensor], tokens: int) -> Iterator[Tensor]:
    """Group sequences `[T]` into batches `[B, T]` of at most `tokens` tokens (but at least one sequence)."""
    batch: list[Tensor] = []
    for sequence in sequences:
        batch.append(sequence)
        if (len(batch) + 1) * len(sequence) > tokens:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)
