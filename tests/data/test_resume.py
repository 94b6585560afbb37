"""Preparations that are killed, interrupted or out of disk go on, and end as if nothing had happened."""

import errno
import gzip
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from importlib import import_module

import pytest
from tqdm import tqdm

from limelm.cli import main
from limelm.data import encode
from limelm.data.journal import preparation
from limelm.data.listing import list_files
from limelm.data.prepare import prepare
from limelm.data.presets import prepare_preset
from limelm.data.sources import LocalFiles
from limelm.data.writer import SplitWriter
from limelm.errors import UserError
from tests.data.test_encode import contents
from tests.recipes import corpus, prepared

prepare_module = import_module("limelm.data.prepare")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Batches of a few documents, and a journal after each."""
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 2000)
    monkeypatch.setattr(prepare_module, "SAVE_SECONDS", 0)


def write_files(folder, documents=600):
    folder.mkdir()
    texts = corpus(documents)
    for number, name in enumerate(("a.jsonl", "b.jsonl.gz", "c.jsonl")):
        with (gzip.open if name.endswith("gz") else open)(folder / name, "wt") as stream:
            stream.write("".join(json.dumps({"text": text}) + "\n" for text in texts[number::3]))
    return folder


def prepare_files(folder, out, **options):
    options = {"vocab_size": 300, "validation_fraction": 0.2, "tokens_per_shard": 5000, **options}
    return prepare(out, LocalFiles(list_files([folder])), "a test corpus", **options)


def journal(out):
    try:
        return json.loads((out.parent / f".{out.name}.partial" / "journal.json").read_text())
    except FileNotFoundError:
        return {"documents": 0}


CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


def is_change(root, event, arguments):
    """Whether an audit event of Python is about to change a file below a folder."""
    if not (event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))):
        return False
    return isinstance(arguments[0], str | os.PathLike) and os.fspath(arguments[0]).startswith(f"{root}{os.sep}")


def killed_before_change(number, root, folder, out):
    """Whether a preparation was killed right before its n-th change of a file below a folder, or ended before."""

    def work():
        tqdm.set_lock(threading.RLock())  # tqdm's own is shared with forks: killed with it, they would stop everybody
        left = iter(range(number))

        def watch(event, arguments):
            if is_change(root, event, arguments) and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        prepare_files(folder, out)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_killed_before_any_change_of_a_file_it_goes_on_to_the_same_end(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 8000)
    folder = write_files(tmp_path / "text", 60)
    prepare_files(folder, tmp_path / "whole")
    (tmp_path / "at").mkdir()
    number, done = 0, 0
    while killed_before_change(number, tmp_path / "at", folder, out := tmp_path / "at" / f"out-{number}"):
        done += out.exists()
        prepare_files(folder, out)
        assert contents(out) == contents(tmp_path / "whole")
        assert sorted(tmp_path.joinpath("at").iterdir()) == [out], f"left behind after change {number}"
        shutil.rmtree(out)
        number += 1
    assert number > 25
    assert done >= 2  # killed when all was there but the tidying up


def test_killed_while_the_tokenizer_is_trained_it_trains_again(tmp_path, monkeypatch):
    folder, out = write_files(tmp_path / "text", 60), tmp_path / "out"
    prepare_files(folder, tmp_path / "whole")

    def train(texts, vocab_size):
        next(iter(texts))
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(prepare_module, "train_tokenizer", train)
            assert killed_before_change(10**9, tmp_path, folder, out)
        assert "settings" in journal(out)
    assert not out.exists()
    prepare_files(folder, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_killed_with_its_processes_it_leaves_none_and_goes_on(tmp_path, capsys, monkeypatch):
    folder, out = write_files(tmp_path / "text"), tmp_path / "out"
    tokenizer = prepared(tmp_path / "tokens") / "tokenizer"
    arguments = ["data", "prepare", str(folder), "--out", str(out), "--tokenizer", str(tokenizer), "--processes", "2"]
    script = f"""if True:
        import os, signal
        from importlib import import_module
        from limelm.cli import main
        from limelm.data.journal import Journal
        import_module("limelm.data.encode").BATCH_CHARACTERS = 2000
        import_module("limelm.data.encode").ALONE_BATCHES = 0
        import_module("limelm.data.prepare").SAVE_SECONDS = 0
        save = Journal.save
        def save_and_die(journal, folder):
            save(journal, folder)
            if journal.documents >= 50:
                os.kill(os.getpid(), signal.SIGKILL)
        Journal.save = save_and_die
        main({arguments!r})
    """
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    process.communicate()  # ends when no process is left that holds its stderr
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    done = journal(out)["documents"]
    monkeypatch.undo()
    here = [*arguments[:-1], "1"]
    assert main(here) == 0
    said = capsys.readouterr()
    assert f"going on after {done:,} documents" in said.err
    assert "tokens/s" in said.out
    assert main([str(tmp_path / "whole") if word == str(out) else word for word in here]) == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_what_is_complete_says_so_and_other_settings_are_refused(tmp_path, capsys):
    folder, out = write_files(tmp_path / "text", 60), tmp_path / "out"
    made = prepare_files(folder, out)
    before = contents(out)
    capsys.readouterr()
    assert prepare_files(folder, out, processes=2) == made
    assert capsys.readouterr().err.strip() == f"{out}: complete, nothing to prepare"
    with pytest.raises(UserError, match="out: already there, prepared with vocab_size=300, not 301; name"):
        prepare_files(folder, out, vocab_size=301)
    (folder / "d.jsonl").write_text('{"text": "more"}\n')
    with pytest.raises(UserError, match="already there, prepared with files="):
        prepare_files(folder, out)
    assert contents(out) == before


def test_what_else_is_there_is_refused(tmp_path):
    folder, out = write_files(tmp_path / "text", 60), tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(UserError, match="out: already there; name a new folder or remove it"):
        prepare_files(folder, out)
    assert contents(out) == {"precious": b"x"}


def test_the_tokenizer_may_have_moved_but_not_changed(tmp_path):
    folder, out = write_files(tmp_path / "text", 60), tmp_path / "out"
    first = prepared(tmp_path / "a") / "tokenizer"
    other = prepared(tmp_path / "b", [text.upper() for text in corpus()]) / "tokenizer"
    made = prepare_files(folder, out, tokenizer=str(first))
    moved = shutil.move(first, tmp_path / "tokenizer")
    assert prepare_files(folder, out, tokenizer=str(moved)) == made
    with pytest.raises(UserError, match=r"prepared with tokenizer='tokenizer \(\w{12}\)', not 'tokenizer \("):
        prepare_files(folder, out, tokenizer=str(other))


@pytest.mark.parametrize("where", [".out.partial", ".out.partial/lock", ".out.partial/prepared/train-00000.bin"])
def test_links_in_the_hidden_folder_are_not_written_through(interrupted, where):
    folder, out = interrupted
    precious = out.parent / "precious"
    link = out.parent / where
    if link.is_dir():
        link.rename(precious)
    else:
        link.unlink()
        precious.write_bytes(b"x" * 10**6)
    before = contents(precious) if precious.is_dir() else precious.read_bytes()
    link.symlink_to(precious)
    with pytest.raises(UserError, match="symbolic link"):
        prepare_files(folder, out)
    assert (contents(precious) if precious.is_dir() else precious.read_bytes()) == before


def interrupt_after(monkeypatch, batches, error):
    """Let the writing of a batch raise, after some."""
    write, left = prepare_module._write, iter(range(batches))

    def stop(*arguments):
        write(*arguments)
        if next(left, None) is None:
            raise error

    monkeypatch.setattr(prepare_module, "_write", stop)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_preset_goes_on_within_a_data_set_of_several_files(tmp_path, monkeypatch, suffix):
    pytest.importorskip("datasets")
    from pyarrow import json as pyarrow_json
    from pyarrow import parquet

    tokenizer = str(prepared(tmp_path / "tokens") / "tokenizer")
    folder = write_files(tmp_path / "text", 120)
    if suffix == "parquet":
        for path in list_files([folder]):
            parquet.write_table(pyarrow_json.read_json(str(path)), path.parent / f"{path.stem[0]}.parquet")
            path.unlink()
    settings = {"dataset": str(folder), "dataset_config": None, "tokenizer": tokenizer, "max_documents": 110}
    settings["validation_fraction"] = 0.2
    prepare_preset("fineweb-edu", tmp_path / "whole", **settings)
    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_after(patch, 5, KeyboardInterrupt())
            prepare_preset("fineweb-edu", tmp_path / "out", **settings)
    assert journal(tmp_path / "out")["position"]["rows"] == journal(tmp_path / "out")["documents"] > 80
    manifest = prepare_preset("fineweb-edu", tmp_path / "out", **settings)
    assert sum(split.documents for split in manifest.splits.values()) == 110
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    folder, out = write_files(tmp_path / "text"), tmp_path / "out"
    prepare_files(folder, tmp_path / "whole")
    flush, left = SplitWriter.flush, iter(range(20))

    def full(writer):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return flush(writer)

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"out: No space left.*goes on from there"):
        patch.setattr(SplitWriter, "flush", full)
        prepare_files(folder, out)
    assert journal(out)["documents"] > 20
    prepare_files(folder, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_broken_row_leaves_nothing(tmp_path):
    folder, out = write_files(tmp_path / "text"), tmp_path / "out"
    with (folder / "c.jsonl").open("a") as stream:
        stream.write("{\n")
    tokenizer = str(prepared(tmp_path / "tokens") / "tokenizer")
    with pytest.raises(UserError, match=r"c\.jsonl line 201: not JSON"):
        prepare_files(folder, out, tokenizer=tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "tokens"]


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    folder, out = write_files(tmp_path / "text"), tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 5, KeyboardInterrupt())
        prepare_files(folder, out)
    return folder, out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 301}, "begun with vocab_size=300, not 301"),
        ({"validation_fraction": 0.1}, "begun with validation_fraction=0.2, not 0.1"),
        ({"max_documents": 99}, "begun with max_documents=None, not 99"),
        ({"tokenizer": "gpt2"}, "begun with tokenizer=None, not 'gpt2'"),
        ({}, "begun with files='3 of .* bytes.*', not '3 of .* bytes"),
    ],
)
def test_other_settings_are_refused(interrupted, options, message):
    folder, out = interrupted
    before = contents(out.parent)
    if not options:
        with (folder / "a.jsonl").open("a") as stream:
            stream.write('{"text": "one more"}\n')
        before = contents(out.parent)
    with pytest.raises(UserError, match=message + ".*remove this folder"):
        prepare_files(folder, out, **options)
    assert contents(out.parent) == before


def test_the_number_of_processes_may_change(interrupted, monkeypatch):
    monkeypatch.setattr(encode, "ALONE_BATCHES", 1)
    folder, out = interrupted
    prepare_files(folder, out.parent / "whole")
    prepare_files(folder, out, processes=2)
    assert contents(out) == contents(out.parent / "whole")


def test_a_damaged_preparation_is_refused(interrupted):
    folder, out = interrupted
    partial = out.parent / f".{out.name}.partial"
    shard = partial / "prepared" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match=r"train-00000\.bin: 100 bytes, but .* were written"):
        prepare_files(folder, out)


def test_a_broken_journal_is_refused(interrupted):
    folder, out = interrupted
    path = out.parent / f".{out.name}.partial" / "journal.json"
    for content, message in (("{", "not JSON"), ('{"format_version": 99}', "format_version=99")):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"journal\.json: {message}.*remove"):
            prepare_files(folder, out)
        assert path.exists()


def test_two_at_once_are_refused(tmp_path):
    with (
        pytest.raises(UserError, match="out: another process is preparing it"),
        preparation(tmp_path / "out", {}),
    ):
        prepared(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
