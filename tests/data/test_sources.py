import gzip
import json

import pytest

from limelm.data.listing import list_files
from limelm.data.sources import HubDataset, LocalFiles
from limelm.errors import UserError

DOCUMENTS = ["first\nwith two lines", "zweites, ü", "третий"]


def write_jsonl(path, field="text"):
    rows = "".join(json.dumps({"id": number, field: text}) + "\n" for number, text in enumerate(DOCUMENTS))
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as stream:
        stream.write(rows + "\n")


def write_parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": DOCUMENTS, "id": [0, 1, 2]}), path, row_group_size=2)


def check_every_position(source):
    """A second reading from each position gives what the first one gave after it."""
    stream, positions = source.open(), []
    everything = []
    for text in stream:
        everything.append(text)
        positions.append(json.loads(json.dumps(stream.position)))
    for number, position in enumerate(positions, start=1):
        assert list(source.open(position)) == everything[number:]
    return everything


def test_every_format_gives_the_same_documents(tmp_path):
    for number, text in enumerate(DOCUMENTS):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    write_jsonl(tmp_path / "a.jsonl")
    write_jsonl(tmp_path / "a.jsonl.gz")
    write_parquet(tmp_path / "a.parquet")
    (tmp_path / "notes.md").write_text("not a source")
    for pattern in ("?.txt", "a.jsonl", "a.jsonl.gz", "a.parquet"):
        assert list(LocalFiles(list_files(sorted(tmp_path.glob(pattern)))).open()) == DOCUMENTS
    assert list(LocalFiles(list_files([tmp_path])).open()) == DOCUMENTS * 4
    write_jsonl(tmp_path / "b.jsonl", field="body")
    assert list(LocalFiles([tmp_path / "b.jsonl"], text_field="body").open()) == DOCUMENTS


def test_local_files_go_on_from_any_document(tmp_path):
    for name in ("a.jsonl", "b.jsonl.gz"):
        write_jsonl(tmp_path / name)
    write_parquet(tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_text("one document")
    assert check_every_position(LocalFiles(list_files([tmp_path]))) == [*DOCUMENTS * 3, "one document"]


def test_skipped_documents_are_not_parsed(tmp_path):
    (tmp_path / "a.jsonl").write_text('broken\n\nbroken\n{"text": "good"}\nbroken\n')
    rest = iter(LocalFiles([tmp_path / "a.jsonl"]).open([0, 2]))
    assert next(rest) == "good"
    with pytest.raises(UserError, match=r"a\.jsonl line 5: not JSON"):
        next(rest)


def test_the_share_of_local_files_grows_to_one(tmp_path):
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl"):
        write_jsonl(tmp_path / name)
    stream = LocalFiles(list_files([tmp_path])).open()
    shares = [stream.share, *(stream.share for _ in stream), stream.share]
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)


def test_a_data_set_goes_on_from_any_document_without_its_finished_files(tmp_path):
    pytest.importorskip("datasets")
    for number in range(3):
        write_parquet(tmp_path / f"train-{number:05d}-of-00003.parquet")
    source = HubDataset(str(tmp_path))
    assert check_every_position(source) == DOCUMENTS * 3
    stream = source.open()
    position = [stream.position for _ in stream][7]  # in the third file
    stream = source.open(position)
    (tmp_path / "train-00000-of-00003.parquet").unlink()
    assert list(stream) == (DOCUMENTS * 3)[8:]


def test_a_hub_data_set_is_streamed(tmp_path):
    pytest.importorskip("datasets")
    write_parquet(tmp_path / "train-00000-of-00001.parquet")
    assert list(HubDataset(str(tmp_path)).open()) == DOCUMENTS
    with pytest.raises(UserError, match="no field 'body'"):
        list(HubDataset(str(tmp_path), text_field="body").open())
    with pytest.raises(UserError, match="split test"):
        list(HubDataset(str(tmp_path), split="test").open())
    with pytest.raises(UserError, match=r"data set 'no/such-set'"):
        list(HubDataset("no/such-set").open())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\x89PNG\r\n", r"a\.txt: not UTF-8 text \(byte 0x89 at 0\)"),
        ("a.txt", b"abc\0def", r"a\.txt: binary, not text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl line 2: not JSON"),
        ("a.jsonl", b'{"body": "x"}\n', r"a\.jsonl line 1: no field 'text' \(it has: body\)"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl line 1: field 'text' is not valid Unicode"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", r"a\.jsonl line 1: not JSON"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl line 1: nested too deeply"),
        ("A.TXT", b"\xff", r"A\.TXT: not UTF-8"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl line 1: field 'text' is int"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl line 1: not an object"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl line 1: not UTF-8"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 1000, mtime=0)[:-20], r"a\.jsonl\.gz: broken gzip"),
        ("a.parquet", b"not parquet", r"a\.parquet: broken Parquet"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(LocalFiles(list_files([tmp_path / name])).open())


def test_missing_or_unreadable_paths_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.docx").write_bytes(b"")
    for path, message in (
        (tmp_path / "missing.txt", "no such file or folder"),
        (tmp_path / "empty", "no file ending in"),
        (tmp_path / "a.docx", "cannot read this kind of file"),
    ):
        with pytest.raises(UserError, match=message):
            list_files([path])
