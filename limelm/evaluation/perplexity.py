"""Perplexity and bits per byte on text, by domain, with a sliding window.

Every document is read by itself, BOS before it (EOS where a tokenizer has no BOS), in windows of `window` tokens
that begin `stride` apart. A token is scored once, in the first window that holds it, so all but the first tokens of a
document have at least `window - stride` tokens before them. BOS and EOS are not scored: they are not text. Bits per
byte can be compared between tokenizers, loss per token and perplexity cannot.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limelm.data.dataset import TokenDataset, are_shards, check_shards
from limelm.data.listing import list_files
from limelm.data.shards import Manifest
from limelm.data.sources import LocalFiles
from limelm.errors import UserError
from limelm.evaluation.breakdown import Breakdown, context_classes, share_classes
from limelm.evaluation.statistics import Interval, ratio_interval
from limelm.progress import progress_bar
from limelm.records import Record

BATCH_TOKENS = 4096
LARGEST_LOSS = 700.0  # nats; e to a larger one is no floating-point number


@dataclass(frozen=True)
class Document:
    """A document's token ids, without BOS and EOS, and the number of UTF-8 bytes that they stand for."""

    ids: list[int]
    bytes: int


@dataclass
class TextScore:
    """Per document: negative log-likelihood in nats, scored tokens, bytes.

    Attributes:
        by_context: the first two by how many tokens stand before, in the window (`context_classes`).
        by_share: by the token's part of the text (`share_classes`).
    """

    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    by_context: Breakdown = field(default_factory=Breakdown)
    by_share: Breakdown = field(default_factory=Breakdown)

    @property
    def loss(self) -> float:
        """Nats per token."""
        return sum(self.nats) / sum(self.tokens)

    @property
    def bits_per_byte(self) -> Interval:
        """Bits per byte of all documents together, with Student's 95 % interval over them."""
        return ratio_interval(np.array(self.nats) / math.log(2), self.bytes)


@dataclass(frozen=True)
class _Piece:
    """The tokens of one window."""

    document: int
    ids: list[int]
    first_scored: int  # the position in `ids` from which on tokens are scored


def score_text(
    model: PreTrainedModel,
    documents: Iterable[Document],
    start_token: int | None,
    window: int,
    stride: int,
    progress: Callable[[int], object] = lambda documents: None,
    shares: np.ndarray | None = None,
) -> TextScore:
    """Score documents one after the other; memory holds a few numbers per document, whatever its length.

    Args:
        start_token: what stands before each document; None scores from its second token on.
        window: tokens that the model reads at once, at least 2.
        stride: tokens by which the window moves, at most `window - 1`.
        progress: called with 1 for each document that is read.
        shares: the class of each token id by its part of the text; None tells no classes apart.

    Raises:
        ValueError: for a window or stride outside of these bounds.
    """
    if not (window >= 2 and 1 <= stride < window):
        raise ValueError(f"window={window} must be at least 2, and stride={stride} from 1 to window - 1")
    score = TextScore()
    for batch in _batches(_pieces(documents, start_token, window, stride, score, progress)):
        for piece, nats in zip(batch, _nats(model, batch), strict=True):
            score.nats[piece.document] += float(nats.sum())
            score.tokens[piece.document] += len(nats)
            score.by_context.add(piece.document, context_classes(piece.first_scored, len(piece.ids)), nats)
            if shares is not None:
                score.by_share.add(piece.document, shares[piece.ids[piece.first_scored :]], nats)
    return score


def read_texts(path: Path) -> Iterator[str]:
    """Read the documents of a file or folder of text.

    Raises:
        UserError: for what cannot be read.
    """
    yield from LocalFiles(list_files([path])).open()


def read_documents(path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Document]:
    """Read the documents of a file or folder of text, or of the validation split of a folder of token shards.

    Raises:
        UserError: for what cannot be read, or shards that were made with another tokenizer.
    """
    if are_shards(path):
        yield from _shard_documents(path, tokenizer)
        return
    for text in read_texts(path):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        yield Document(list(ids), len(text.encode()))


def score_path(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    window: int,
    stride: int,
    limit: int | None = None,
    description: str | None = None,
) -> TextScore:
    """Score the documents that `read_documents` finds at a path, BOS (or else EOS) before each.

    Args:
        limit: read only the first so many.
        description: of the progress bar.

    Raises:
        UserError: where there is no text to score, or the model's loss on it is no number.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    shares = share_classes(document.ids for document in islice(read_documents(path, tokenizer), limit))
    documents = islice(read_documents(path, tokenizer), limit)
    with progress_bar(description, "document", total=limit, delay=1) as bar:
        score = score_text(model, documents, start, window, stride, bar.update, shares)
    if not sum(score.tokens):
        raise UserError(f"{path}: no text to score")
    if not math.isfinite(score.loss):
        raise UserError(f"{path}: the model's loss on it is not a finite number ({score.loss})")
    return score


def text_record(label: str, domain: str, score: TextScore, window: int, stride: int) -> Record:
    """Make a table's row of a model's score on a domain.

    Returns:
        `model`, `domain`, `documents`, `tokens`, `bytes`, `loss` (nats per token), `perplexity` (None above e to
        LARGEST_LOSS), `bits_per_byte` with its interval `low` and `high` (None for a single document), `window` and
        `stride`.
    """
    bits = score.bits_per_byte
    return {
        "model": label,
        "domain": domain,
        "documents": len(score.nats),
        "tokens": sum(score.tokens),
        "bytes": sum(score.bytes),
        "loss": score.loss,
        "perplexity": math.exp(score.loss) if score.loss < LARGEST_LOSS else None,
        "bits_per_byte": bits.mean,
        "low": bits.low,
        "high": bits.high,
        "window": window,
        "stride": stride,
    }


def items_of_text(score: TextScore) -> list[Record]:
    """A score as plain values, one record for each document (`limelm.evaluation.kept.TextItem`)."""
    columns = {
        "nats": score.nats,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "context_nats": score.by_context.nats,
        "context_tokens": score.by_context.tokens,
        "share_nats": score.by_share.nats,
        "share_tokens": score.by_share.tokens,
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def text_score(items: list[Record]) -> TextScore:
    """The score that `items_of_text` made records of."""
    columns = {key: [item[key] for item in items] for key in items[0]}
    context = Breakdown(columns.pop("context_nats"), columns.pop("context_tokens"))
    share = Breakdown(columns.pop("share_nats"), columns.pop("share_tokens"))
    return TextScore(**columns, by_context=context, by_share=share)


def difference(first: TextScore, second: TextScore) -> Interval:
    """The difference, second minus first, in bits per byte on the same documents, with Student's 95 % interval.

    Raises:
        ValueError: for scores of different documents.
    """
    if first.bytes != second.bytes:
        raise ValueError("the two models were not scored on the same documents")
    bits = (np.array(second.nats) - np.array(first.nats)) / math.log(2)
    return ratio_interval(bits, first.bytes)


def _shard_documents(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Document]:
    check_shards(folder, tokenizer)
    manifest = Manifest.load(folder)
    ends = (manifest.bos_token_id, manifest.eos_token_id)
    ids: list[int] = []
    for chunk in TokenDataset(folder, "validation", 1).chunks():
        for token in chunk.tolist():
            if token not in ends:
                ids.append(token)
            elif ids:
                yield _decoded(ids, tokenizer)
                ids = []
    if ids:
        yield _decoded(ids, tokenizer)


def _decoded(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Document:
    return Document(ids, len(tokenizer.decode(ids, clean_up_tokenization_spaces=False).encode()))


def _pieces(
    documents: Iterable[Document],
    start_token: int | None,
    window: int,
    stride: int,
    score: TextScore,
    progress: Callable[[int], object],
) -> Iterator[_Piece]:
    """Yield the windows of all documents; a document gets its place in `score` with its first window."""
    for number, document in enumerate(documents):
        score.nats.append(0.0)
        score.tokens.append(0)
        score.bytes.append(document.bytes)
        score.by_context.begin_document()
        score.by_share.begin_document()
        ids = document.ids if start_token is None else [start_token, *document.ids]
        scored = 1  # tokens of `ids` that need no score any more
        for begin in range(0, max(1, len(ids)), stride):
            piece = ids[begin : begin + window]
            if begin + len(piece) > scored:
                yield _Piece(number, piece, scored - begin)
                scored = begin + len(piece)
            if scored >= len(ids):
                break
        progress(1)


def _batches(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Group pieces into batches that stay below BATCH_TOKENS when padded to the longest."""
    batch: list[_Piece] = []
    for piece in pieces:
        longest = max(len(other.ids) for other in (*batch, piece))
        if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


@torch.no_grad()
def _nats(model: PreTrainedModel, batch: list[_Piece]) -> list[np.ndarray]:
    """The negative log-likelihood of each of a piece's scored tokens."""
    longest = max(len(piece.ids) for piece in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    attention_mask, targets = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, piece in enumerate(batch):
        own = torch.tensor(piece.ids)
        ids[row, : len(own)] = own
        attention_mask[row, : len(own)] = 1
        targets[row, piece.first_scored : len(own)] = own[piece.first_scored :]
    # Padding stands on the right, where no token looks: without any, no mask is needed.
    mask = None if attention_mask.all() else attention_mask.to(model.device)
    logits: Tensor = model(input_ids=ids.to(model.device), attention_mask=mask, use_cache=False).logits
    losses = cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets[:, 1:].flatten().to(logits.device), reduction="none"
    )
    rows = losses.view(len(batch), -1).double().cpu().numpy()
    return [row[piece.first_scored - 1 : len(piece.ids) - 1] for row, piece in zip(rows, batch, strict=True)]
