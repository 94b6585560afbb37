import multiprocessing
import os
import signal
import tracemalloc
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib import import_module

import pytest

from limelm.data import encode
from limelm.data.dataset import load_prepared_tokenizer
from limelm.data.encode import Encoder, encode_batches, read_batches
from limelm.data.holdout import HoldOut
from limelm.data.prepare import prepare
from limelm.data.shards import Manifest
from limelm.data.sources import LocalFiles, Repeatable
from limelm.errors import UserError
from tests.recipes import corpus, prepared


def contents(folder):
    """Every file of a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_number_of_processes_changes_nothing(tmp_path, monkeypatch):
    tokenizer = str(prepared(tmp_path / "tokenizer") / "tokenizer")
    documents = corpus(400)
    documents[7] = documents[7] * 4_000  # as long as all others ten times over
    documents[100:110] = [""] * 10
    monkeypatch.setattr(encode, "ALONE_BATCHES", 1)
    folders = []
    for processes, characters in ((1, 10**9), (1, 1000), (3, 20_000)):
        monkeypatch.setattr(encode, "BATCH_CHARACTERS", characters)
        folders.append(tmp_path / f"{processes}-{characters}")
        prepare(
            folders[-1],
            lambda: documents,
            "a test corpus",
            tokenizer=tokenizer,
            validation_fraction=0.2,
            tokens_per_shard=10_000,
            processes=processes,
        )
    assert contents(folders[0]) == contents(folders[1]) == contents(folders[2])
    assert len(Manifest.load(folders[0]).splits["train"].shards) > 2


def test_a_tokenizing_process_that_dies_is_an_error(tmp_path, monkeypatch):
    tokenizer = prepared(tmp_path / "tokens") / "tokenizer"

    def die(*arguments):
        raise BrokenProcessPool("a process died")

    monkeypatch.setattr(import_module("limelm.data.prepare"), "encode_batches", die)
    with pytest.raises(UserError, match=r"a tokenizing process died.*goes on from there"):
        prepared(tmp_path / "out", tokenizer=str(tokenizer))
    monkeypatch.undo()
    manifest = Manifest.load(prepared(tmp_path / "out", tokenizer=str(tokenizer)))
    assert manifest.content_sha256 == Manifest.load(tmp_path / "tokens").content_sha256


def test_a_killed_process_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 1)
    monkeypatch.setattr(encode, "ALONE_BATCHES", 0)
    tokenizer = load_prepared_tokenizer(prepared(tmp_path / "tokens"))
    stream = Repeatable(lambda: corpus(1000)).open()
    batches = encode_batches(read_batches(stream, 0, None), DyingEncoder(tokenizer.backend_tokenizer), 2)
    with pytest.raises(BrokenProcessPool):
        list(batches)


def test_processes_end_at_once_when_nobody_wants_more(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 1)
    monkeypatch.setattr(encode, "ALONE_BATCHES", 0)
    tokenizer = load_prepared_tokenizer(prepared(tmp_path / "tokens")).backend_tokenizer
    stream = Repeatable(lambda: corpus(1000)).open()
    make_encoder = partial(Encoder, tokenizer, 0, 1, "uint16", HoldOut(0.5, 0, 1))
    batches = encode_batches(read_batches(stream, 0, None), make_encoder, 2)
    encoded, mark = next(batches)
    assert mark.documents == 1 and encoded.ids.tolist()[:1] == [0]
    batches.close()
    assert multiprocessing.active_children() == []


class DyingEncoder:
    """Makes an encoder that kills its process."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self):
        encoder = Encoder(self.tokenizer, 0, 1, "uint16", HoldOut(0.5, 0, 1))
        encoder.hold_out = Deadly()
        return encoder


class Deadly:
    def pieces(self, text):
        os.kill(os.getpid(), signal.SIGKILL)


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    tokenizer = str(prepared(tmp_path / "tokenizer") / "tokenizer")
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 50_000)
    peaks = []
    for copies in (1, 8):
        file = tmp_path / f"{copies}.jsonl"
        file.write_text("".join(f'{{"text": "memory layer router {number}"}}\n' * 5 for number in range(1500 * copies)))
        tracemalloc.start()
        prepare(tmp_path / f"out-{copies}", LocalFiles([file]), "a test", tokenizer=tokenizer)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
