"""Byte-order marks are no text, and no document takes more memory than the limit lets it."""

import codecs
import gzip
import json
import tracemalloc

import pytest

from limelm.cli import main
from limelm.data import lines
from limelm.data.listing import list_files
from limelm.data.prepare import prepare
from limelm.data.sources import LocalFiles
from limelm.errors import UserError
from tests.recipes import corpus

MARK = codecs.BOM_UTF8


def rows(*texts):
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def documents(path):
    return list(LocalFiles(list_files([path])).open())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "ü\nb".encode()),
        ("a.txt", b""),
        ("a.jsonl", rows("ü", "b")),
        ("a.jsonl", b"\n" + rows("ü", "b")),
        ("a.jsonl.gz", rows("ü", "b")),
    ],
)
def test_a_byte_order_mark_is_no_text(tmp_path, name, content):
    plain = documents(write(tmp_path / name, content))
    assert documents(write(tmp_path / name, MARK + content)) == plain
    assert not any("\ufeff" in text for text in plain)


def test_files_with_marks_that_were_put_together_are_read(tmp_path):
    whole = MARK + rows("a", "b") + MARK + rows("c") + MARK + b"\n"
    assert documents(write(tmp_path / "a.jsonl", whole)) == ["a", "b", "c"]


def test_a_mark_within_the_text_stays(tmp_path):
    assert documents(write(tmp_path / "a.txt", "a\ufeffb".encode())) == ["a\ufeffb"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_utf_16_is_named(tmp_path, encoding, name):
    mark = codecs.BOM_UTF16_LE if encoding == "utf-16-le" else codecs.BOM_UTF16_BE
    content = mark + rows("ä").decode().replace("\n", "").encode(encoding)
    with pytest.raises(UserError, match=r"UTF-16; save it as UTF-8"):
        documents(write(tmp_path / name, content))


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(lines, "MOST_BYTES", 1000)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_document_up_to_the_limit_is_read_and_a_larger_one_named(tmp_path, small_limit, name):
    def content(size):
        if name.endswith("parquet"):
            pyarrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"text": ["first", "x" * size]}), tmp_path / name)
        elif name == "a.txt":
            write(tmp_path / name, b"x" * size)
        else:
            line = rows("x" * (size - len(rows(""))))
            assert len(line) == size
            write(tmp_path / name, rows("first") + line)
        return tmp_path / name

    assert len(documents(content(1000))[-1]) > 900
    where = {"a.txt": "", "a.parquet": " row 1"}.get(name, " line 2")
    with pytest.raises(UserError, match=rf"{name}{where}: a document of more than 1,000 bytes.*cut it into several"):
        documents(content(1001))


def test_a_short_file_that_unpacks_to_one_long_line_takes_little_memory(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(b'{"text": "')
        for _ in range(128):
            stream.write(b"a" * 2**20)
        stream.write(b'"}\n')
    assert path.stat().st_size < 2**18
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"a\.jsonl\.gz line 1: a document of more than 16,777,216 bytes"):
            documents(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * lines.MOST_BYTES
    finally:
        tracemalloc.stop()


def test_too_large_a_document_leaves_nothing_behind(tmp_path, small_limit, capsys):
    write(tmp_path / "a.jsonl", rows(*corpus(50), "x" * 2000))
    assert (
        main(["data", "prepare", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), "--vocab-size", "300"]) == 2
    )
    *_, last = capsys.readouterr().err.rstrip("\n").split("\n")
    assert last.endswith("cut it into several documents") and "\r" not in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_without_text_are_left_out_and_counted(tmp_path, capsys, suffix):
    texts = corpus(30)
    with_holes = [None, *texts[:10], "", None, *texts[10:], " \n", None]
    if suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": with_holes}), tmp_path / "a.parquet")
    else:
        write(tmp_path / "a.jsonl", rows(*with_holes))
    made = prepare(tmp_path / "a", LocalFiles(list_files([tmp_path / f"a.{suffix}"])), "a", vocab_size=300)
    assert "5 of 35 documents left out, for they have no text" in capsys.readouterr().err
    write(tmp_path / "b.jsonl", rows(*texts))
    whole = prepare(tmp_path / "b", LocalFiles([tmp_path / "b.jsonl"]), "b", vocab_size=300)
    assert "left out" not in capsys.readouterr().err
    assert made.content_sha256 == whole.content_sha256
