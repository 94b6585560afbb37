"""Perplexity and bits per byte on text, by domain, with a sliding window.

Every document is read by itself, BOS before it (EOS where a tokenizer has no BOS), in windows of `length` tokens that
begin `stride` apart. A token is scored once, in the first window that holds it, so all but the first tokens of a
document have at least `length - stride` tokens before them. BOS and EOS are not scored: they are not text. Bits per
byte can be compared between tokenizers, loss per token and perplexity cannot.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limelm.data import LocalFiles, Manifest, TokenDataset, list_files, load_prepared_tokenizer
from limelm.data.shards import MANIFEST
from limelm.errors import UserError
from limelm.evaluation.statistics import Interval, ratio_interval

Records = list[dict[str, Any]]

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Document:
    """Its token ids, without BOS and EOS, and how many bytes of UTF-8 they stand for."""

    ids: list[int]
    bytes: int


@dataclass
class TextScore:
    """Per document: negative log-likelihood in nats, scored tokens, bytes."""

    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """Nats per token."""
        return sum(self.nats) / sum(self.tokens)

    @property
    def bits_per_byte(self) -> Interval:
        """Of all documents together, with a 95 % interval over documents (NaN for a single one)."""
        return ratio_interval(np.array(self.nats) / math.log(2), self.bytes)


@dataclass(frozen=True)
class _Window:
    document: int
    ids: list[int]
    first_scored: int  # the position in `ids` from which on tokens are scored


def score_text(
    model: PreTrainedModel,
    documents: Iterable[Document],
    start_token: int | None,
    length: int,
    stride: int,
    progress: Callable[[int], object] = lambda documents: None,
) -> TextScore:
    """Score documents, one after the other; memory does not grow with their length but for a few numbers each.

    Args:
        start_token: what stands before each document; None scores from its second token on.
        length: tokens that the model reads at once, at least 2.
        stride: tokens by which the window moves, at most `length - 1`.
        progress: called with 1 for each document that is read.

    Raises:
        ValueError: for a length or stride outside of these bounds.
    """
    if not (length >= 2 and 1 <= stride < length):
        raise ValueError(f"length={length} must be at least 2, and stride={stride} from 1 to length - 1")
    score = TextScore()
    for batch in _batches(_windows(documents, start_token, length, stride, score, progress)):
        for window, nats in zip(batch, _nats(model, batch), strict=True):
            score.nats[window.document] += nats
            score.tokens[window.document] += len(window.ids) - window.first_scored
    return score


def read_documents(path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Document]:
    """The documents of a file or folder of text, or of the held-out split of a folder of token shards.

    Raises:
        UserError: for what cannot be read, or shards that were made with another tokenizer.
    """
    if (path / MANIFEST).exists():
        yield from _shard_documents(path, tokenizer)
        return
    for text in LocalFiles(list_files([path])).open():
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        yield Document(list(ids), len(text.encode()))


def text_records(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    label: str,
    domains: dict[str, Path],
    length: int,
    stride: int,
    limit: int | None = None,
) -> tuple[Records, dict[str, TextScore]]:
    """Perplexity of one model on each domain.

    Args:
        domains: names, and the text or shards that they stand for.
        limit: read the first so many documents of each.

    Returns:
        Records of `model`, `domain`, `documents`, `tokens`, `bytes`, `loss` (nats per token), `perplexity`,
        `bits_per_byte` with its interval `low` and `high` (None for a single document), `length` and `stride`; and the
        scores by domain.

    Raises:
        UserError: where a domain has no text to score.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    records: Records = []
    scores: dict[str, TextScore] = {}
    for name, path in domains.items():
        documents = islice(read_documents(path, tokenizer), limit)
        with tqdm(desc=f"{label}: {name}", unit="document", total=limit, leave=False, mininterval=0.5) as bar:
            score = score_text(model, documents, start, length, stride, bar.update)
        if not sum(score.tokens):
            raise UserError(f"{path}: no text to score")
        bits = score.bits_per_byte
        scores[name] = score
        records.append(
            {
                "model": label,
                "domain": name,
                "documents": len(score.nats),
                "tokens": sum(score.tokens),
                "bytes": sum(score.bytes),
                "loss": score.loss,
                "perplexity": math.exp(score.loss),
                "bits_per_byte": bits.mean,
                "low": bits.low if len(score.nats) > 1 else None,
                "high": bits.high if len(score.nats) > 1 else None,
                "length": length,
                "stride": stride,
            }
        )
    return records, scores


def difference(first: TextScore, second: TextScore) -> Interval:
    """Second minus first in bits per byte on the same documents, with a 95 % interval over documents.

    Raises:
        ValueError: for scores of different documents.
    """
    if first.bytes != second.bytes:
        raise ValueError("the two models were not scored on the same documents")
    bits = (np.array(second.nats) - np.array(first.nats)) / math.log(2)
    return ratio_interval(bits, first.bytes)


def _shard_documents(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Document]:
    if load_prepared_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise UserError(f"{folder}: its shards were made with another tokenizer than the model's; give text instead")
    manifest = Manifest.load(folder)
    ends = (manifest.bos_token_id, manifest.eos_token_id)
    ids: list[int] = []
    for shard in TokenDataset(folder, "validation", 1).shards:
        for token in shard.tolist():
            if token not in ends:
                ids.append(token)
            elif ids:
                yield _decoded(ids, tokenizer)
                ids = []
    if ids:
        yield _decoded(ids, tokenizer)


def _decoded(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Document:
    return Document(ids, len(tokenizer.decode(ids, clean_up_tokenization_spaces=False).encode()))


def _windows(
    documents: Iterable[Document],
    start_token: int | None,
    length: int,
    stride: int,
    score: TextScore,
    progress: Callable[[int], object],
) -> Iterator[_Window]:
    """The windows of all documents; each document gets its place in `score` when its first window comes."""
    for number, document in enumerate(documents):
        score.nats.append(0.0)
        score.tokens.append(0)
        score.bytes.append(document.bytes)
        ids = document.ids if start_token is None else [start_token, *document.ids]
        scored = 1  # tokens of `ids` that need no score any more
        for begin in range(0, max(1, len(ids)), stride):
            window = ids[begin : begin + length]
            if begin + len(window) > scored:
                yield _Window(number, window, scored - begin)
                scored = begin + len(window)
            if scored >= len(ids):
                break
        progress(1)


def _batches(windows: Iterator[_Window]) -> Iterator[list[_Window]]:
    """Windows put together, as many as stay below BATCH_TOKENS when padded to the longest."""
    batch: list[_Window] = []
    for window in windows:
        longest = max(len(other.ids) for other in (*batch, window))
        if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


@torch.no_grad()
def _nats(model: PreTrainedModel, batch: list[_Window]) -> list[float]:
    """The negative log-likelihood of each window's scored tokens."""
    longest = max(len(window.ids) for window in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    attention_mask, targets = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, window in enumerate(batch):
        own = torch.tensor(window.ids)
        ids[row, : len(own)] = own
        attention_mask[row, : len(own)] = 1
        targets[row, window.first_scored : len(own)] = own[window.first_scored :]
    # Padding stands on the right, where no token looks: without any, no mask is needed.
    mask = None if attention_mask.all() else attention_mask.to(model.device)
    logits: Tensor = model(input_ids=ids.to(model.device), attention_mask=mask, use_cache=False).logits
    losses = cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets[:, 1:].flatten().to(logits.device), reduction="none"
    )
    return losses.view(len(batch), -1).double().sum(dim=1).tolist()
