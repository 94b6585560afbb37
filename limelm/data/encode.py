"""Encode text to token ids, in this process or in several, always in the order of the documents."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from limelm.data.holdout import HoldOut
from limelm.data.sources import Stream

BATCH_CHARACTERS = 2_000_000
ALONE_BATCHES = 8
BATCHES_PER_PROCESS = 2  # one at work, one waiting


@dataclass(frozen=True)
class Mark:
    """The position up to which a source has been read: documents, the stream's position after them, and its share."""

    documents: int
    position: Any
    share: float | None


@dataclass(frozen=True)
class Encoded:
    """The token ids of some documents, one after the other."""

    ids: np.ndarray  # [tokens], BOS, text, EOS of each document
    documents: list[tuple[str, int, int]]  # of each: its split, its tokens, its bytes of text


class Encoder:
    """Encode documents to ids; a document that spells out a special token means its letters, not the token."""

    def __init__(self, tokenizer: Tokenizer, bos: int, eos: int, dtype: str, hold_out: HoldOut):
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.bos, self.eos, self.dtype, self.hold_out = bos, eos, dtype, hold_out

    def __call__(self, texts: list[str]) -> Encoded:
        pieces = [piece for text in texts for piece in self.hold_out.pieces(text)]
        encodings = self.tokenizer.encode_batch_fast([text for _, text in pieces], add_special_tokens=False)
        parts = [np.array([self.bos, *encoding.ids, self.eos], dtype=self.dtype) for encoding in encodings]
        documents = [(split, len(part), len(text.encode())) for (split, text), part in zip(pieces, parts, strict=True)]
        return Encoded(np.concatenate(parts) if parts else np.empty(0, self.dtype), documents)


def read_batches(stream: Stream, documents: int, last: int | None) -> Iterator[tuple[list[str], Mark]]:
    """Group documents into batches of about BATCH_CHARACTERS, so that memory stays bounded whatever their lengths.

    Args:
        documents: how many were read before.
        last: stop when so many have been read in all.
    """
    texts: list[str] = []
    characters = 0
    for text in islice(stream, None if last is None else last - documents):
        texts.append(text)
        characters += len(text) + 1
        if characters >= BATCH_CHARACTERS:
            documents += len(texts)
            yield texts, Mark(documents, stream.position, stream.share)
            texts, characters = [], 0
    if texts:
        yield texts, Mark(documents + len(texts), stream.position, stream.share)


def encode_batches(
    batches: Iterator[tuple[list[str], Mark]], make_encoder: Callable[[], Encoder], processes: int
) -> Generator[tuple[Encoded, Mark]]:
    """Encode batches, in their order, in this process or in `processes` others.

    At most a few batches for each process are in memory. The first ALONE_BATCHES are encoded here in any case: starting
    processes takes seconds.

    Raises:
        BrokenProcessPool: where one of the processes dies.
    """
    encoder = make_encoder()
    for texts, mark in islice(batches, None if processes == 1 else ALONE_BATCHES):
        yield encoder(texts), mark
    first = next(batches, None)
    if first is not None:
        yield from _encode_elsewhere(chain([first], batches), make_encoder, processes)


def _encode_elsewhere(
    batches: Iterator[tuple[list[str], Mark]], make_encoder: Callable[[], Encoder], processes: int
) -> Iterator[tuple[Encoded, Mark]]:
    context = _light_context()
    ended, alive = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(processes, context, initializer=_start_process, initargs=(make_encoder, ended))
    pending: deque[tuple[Future[Encoded], Mark]] = deque()
    try:
        for texts, mark in batches:
            pending.append((pool.submit(_encode, texts), mark))
            if len(pending) >= BATCHES_PER_PROCESS * processes:
                yield _next_result(pending)
        while pending:
            yield _next_result(pending)
    finally:
        alive.close()  # the processes end at once: waiting for their batches would stand in the way of Ctrl-C
        pool.shutdown(cancel_futures=True)


def available_processes() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _next_result(pending: "deque[tuple[Future[Encoded], Mark]]") -> tuple[Encoded, Mark]:
    future, mark = pending.popleft()
    return future.result(), mark


def _light_context() -> Any:
    """The way processes start: importing PyTorch costs seconds and 400 MB, so one server imports it and then forks.

    Where there is no such server, each process is started afresh.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


_encoder: Encoder


def _start_process(make_encoder: Callable[[], Encoder], ended: Connection) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encoder = make_encoder()


def _end_with(ended: Connection) -> None:
    """End this process when the other end is closed, by `_encode_elsewhere` or by the death of its process."""
    wait([ended])
    os._exit(1)


def _encode(texts: list[str]) -> Encoded:
    return _encoder(texts)
