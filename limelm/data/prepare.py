"""Prepare documents: hold some out, tokenize, write shards and the manifest."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from limelm.data.encode import Encoded, Encoder, Mark, encode_batches, read_batches
from limelm.data.errors import interrupted_by_disk
from limelm.data.holdout import HoldOut
from limelm.data.journal import Journal, Preparation, is_finished, preparation
from limelm.data.progress import Progress
from limelm.data.shards import SPLITS, TOKENIZER, Manifest, token_dtype
from limelm.data.sources import Repeatable, Source
from limelm.data.tokenization import check_vocab_size, load_document_tokenizer, tokenizer_sha256, train_tokenizer
from limelm.data.writer import SplitWriter
from limelm.errors import UserError
from limelm.text import printable

VOCAB_SIZE = 4096
VALIDATION_FRACTION = 0.02
TOKENS_PER_SHARD = 2**27
TOKENIZER_CHARACTERS = 1_000_000_000  # of text that a tokenizer is trained on, from the beginning
SAVE_SECONDS = 2.0


def prepare(
    out: Path,
    documents: Source | Callable[[], Iterable[str]],
    source: str,
    tokenizer: str | None = None,
    vocab_size: int = VOCAB_SIZE,
    validation_fraction: float = VALIDATION_FRACTION,
    max_documents: int | None = None,
    tokens_per_shard: int = TOKENS_PER_SHARD,
    processes: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Write the token shards of `documents` to the new folder `out`: BOS, document, EOS, one document after the other.

    Stopped by a kill, Ctrl-C or a full disk, the same call goes on from where it stood; when all is done, it says so.
    Memory is bounded, whatever the length of the corpus. Documents without any text are left out.

    Args:
        documents: a source, or a function that makes an iterator of the same documents at every call.
        source: what the documents are, for the manifest.
        tokenizer: name or folder of a tokenizer; None trains a byte-level BPE of `vocab_size` entries on the first
            TOKENIZER_CHARACTERS.
        validation_fraction: the share of documents to hold out, in (0, 1).
        max_documents: stop after so many documents.
        processes: how many tokenize; 1 is this one, with the tokenizer's own threads. The result is the same.
        progress: shows what happens, and holds this run's tokens and seconds afterwards.

    Raises:
        UserError: for bad arguments, documents that cannot be read, or too few of them: nothing is left behind. For an
            `out` that was begun with other settings, or an interruption: what is done is kept.
    """
    _check(source, tokenizer, vocab_size, validation_fraction)
    for name, value in (
        ("max_documents", max_documents),
        ("tokens_per_shard", tokens_per_shard),
        ("processes", processes),
    ):
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    if not isinstance(documents, Source):
        documents = Repeatable(documents)
    identity = documents.identity()
    settings = {
        "source": printable(source),
        **identity,
        "tokenizer": None if tokenizer is None else _tokenizer_identity(tokenizer),
        "vocab_size": vocab_size if tokenizer is None else None,
        "validation_fraction": validation_fraction,
        "max_documents": max_documents,
        "tokens_per_shard": tokens_per_shard,
    }
    progress = progress or Progress()
    if identity and is_finished(out, settings):  # what a function makes may have changed
        progress.say(f"{out}: complete, nothing to prepare")
        return Manifest.load(out)
    with preparation(out, settings) as work:
        if work.journal is None:
            first = islice(documents.open(), max_documents)
            work.save(Journal(settings, HoldOut.find(first, validation_fraction, source)))
        else:
            progress.say(f"{out}: going on after {work.journal.documents:,} documents")
        trained = _tokenizer(work, documents, tokenizer, progress)
        manifest = _write_shards(work, documents, trained, processes, progress)
        with interrupted_by_disk():
            manifest.save(work.prepared)
    return manifest


def _check(source: str, tokenizer: str | None, vocab_size: int, validation_fraction: float) -> None:
    for name, text in (("source", source), ("tokenizer", tokenizer)):
        if text is not None and not text.strip():
            raise UserError(f"{name}={text!r} must not be empty")
    if tokenizer is None:
        check_vocab_size(vocab_size)
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction={validation_fraction} is outside (0, 1)")


def _tokenizer_identity(tokenizer: str) -> str:
    """A tokenizer's identity: its hub name, or a folder's name and content, wherever the folder lies."""
    folder = Path(tokenizer)
    if not (folder / "tokenizer.json").exists():
        return tokenizer
    return f"{folder.resolve().name} ({tokenizer_sha256(folder)[:12]})"


def _tokenizer(
    work: Preparation, documents: Source, tokenizer: str | None, progress: Progress
) -> PreTrainedTokenizerFast:
    """Load or train the tokenizer and save it, unless that is done already."""
    assert work.journal is not None
    settings, folder = work.journal.settings, work.prepared / TOKENIZER
    if not folder.exists():
        if tokenizer is None:
            texts = _training_text(islice(documents.open(), settings["max_documents"]), work.journal.hold_out)
            with progress.training(texts) as shown:
                trained = train_tokenizer(shown, settings["vocab_size"])
        else:
            trained = load_document_tokenizer(tokenizer)
        beside = work.folder / TOKENIZER
        trained.save_pretrained(beside)
        beside.rename(folder)
    return load_document_tokenizer(str(folder))


def _training_text(documents: Iterable[str], hold_out: HoldOut) -> Iterator[str]:
    characters = 0
    for document in documents:
        for split, text in hold_out.pieces(document):
            if split == "train":
                yield text
                characters += len(text)
        if characters >= TOKENIZER_CHARACTERS:
            return


def _write_shards(
    work: Preparation, documents: Source, tokenizer: PreTrainedTokenizerFast, processes: int, progress: Progress
) -> Manifest:
    """Tokenize the remaining documents, and describe the result."""
    journal = work.journal
    assert journal is not None
    dtype = token_dtype(len(tokenizer))
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    make_encoder = partial(Encoder, tokenizer.backend_tokenizer, bos, eos, dtype, journal.hold_out)
    last, read = journal.settings["max_documents"], journal.documents
    batches = read_batches(documents.open(journal.position), journal.documents, last)
    with (
        _writers(work, journal, dtype) as writers,
        closing(encode_batches(batches, make_encoder, processes)) as encoded,
    ):
        before = sum(writer.split.tokens for writer in writers.values())
        with progress.tokenizing(before, last) as advance:
            for batch, mark in _journaled(encoded, work, writers):
                _write(batch, writers)
                advance(len(batch.ids), mark)
                read = mark.documents
        for writer in writers.values():
            writer.close()
    empty = read - sum(writer.split.documents for writer in writers.values())
    if journal.hold_out.other is not None and empty:
        progress.say(f"{empty:,} of {read:,} documents left out, for they have no text (null, or nothing but spaces)")
    return Manifest(
        source=journal.settings["source"],
        vocab_size=len(tokenizer),
        bos_token_id=bos,
        eos_token_id=eos,
        tokenizer_sha256=tokenizer_sha256(work.prepared / TOKENIZER),
        dtype=dtype,
        splits={name: writer.split for name, writer in writers.items()},
    )


@contextmanager
def _writers(work: Preparation, journal: Journal, dtype: str) -> Iterator[dict[str, SplitWriter]]:
    """Make the splits' writers, which begin where the journal stands."""
    size = journal.settings["tokens_per_shard"]
    writers = {name: SplitWriter(work.prepared, name, dtype, size, journal.splits.get(name)) for name in SPLITS}
    try:
        yield writers
    finally:
        for writer in writers.values():
            writer.abandon()


def _write(batch: Encoded, writers: dict[str, SplitWriter]) -> None:
    start = 0
    for split, tokens, text_bytes in batch.documents:
        writers[split].add(batch.ids[start : start + tokens], text_bytes)
        start += tokens


def _journaled(
    batches: Iterator[tuple[Encoded, Mark]], work: Preparation, writers: dict[str, SplitWriter]
) -> Iterator[tuple[Encoded, Mark]]:
    """Pass batches on; every few seconds, note in the journal that the earlier ones have been written."""
    assert work.journal is not None
    saved = time.monotonic()
    for batch, mark in batches:
        yield batch, mark
        if time.monotonic() - saved >= SAVE_SECONDS:
            states = {name: writer.flush() for name, writer in writers.items()}
            work.save(replace(work.journal, documents=mark.documents, position=mark.position, splits=states))
            saved = time.monotonic()
