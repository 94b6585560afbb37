"""Results that an earlier run left count only where they are exactly of the known shape."""

import copy
import json

import pytest

from limelm.evaluation.items import read_record, write_record
from limelm.evaluation.kept import KeptAnswers, KeptTask, KeptText, read_kept

IDENTITY = {"checkpoint": "abc", "limit": None, "window": 8}
#: The same by classes of tokens.
CLASSES = {"context_nats": [1.5, 2], "context_tokens": [1, 3], "share_nats": [3.5], "share_tokens": [4]}
RECORDS = {
    KeptText: {
        "identity": IDENTITY,
        "domain": "held\x1bout",
        "items": [
            {"nats": 3.5, "tokens": 4, "bytes": 9, **CLASSES},
            {"nats": 0, "tokens": 0, "bytes": 0, **{key: [] for key in CLASSES}},
        ],
    },
    KeptTask: {
        "identity": IDENTITY,
        "task": "copa",
        "version": 1.0,
        "shots": 0,
        "examples_are_scored_items": False,
        "results": {"acc,none": 0.5},
        "items_cut": 0,
        "items": [
            {"doc_id": 0, "prompt_fingerprint": "ab", "cut": False, "scores": {"acc": 1.0}},
            {
                "doc_id": 1,
                "prompt_fingerprint": "cd",
                "cut": True,
                "scores": {"acc": 0.0},
                "log_likelihoods": [-1.5, -2.0],
                "prediction": 0,
                "gold": None,
                "group": "ef",
            },
        ],
    },
    KeptAnswers: {
        "data_sha256": "0" * 64,
        "problems": 2,
        "correct": 1,
        "items": [
            {"prompt": "1 + 2 =", "answer": "3", "written": "3", "correct": True},
            {"prompt": "2 + 2 =", "answer": "4", "written": None, "correct": False},
        ],
    },
}
WRONG = [None, "text", -1, True, [], {}, float("nan"), float("inf"), 10**30]


def places(value, path=()):
    """Where a value or any of its parts stands, but for the identity, which is compared as a whole."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in ("identity", "version"):
                yield from places(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from places(part, (*path, index))


def changed(record, path, value):
    record = copy.deepcopy(record)
    if not path:
        return value
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return record


@pytest.fixture(params=RECORDS, ids=lambda kind: kind.__name__)
def kept(request, tmp_path):
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(RECORDS[request.param]))
    return path, request.param


def test_what_was_written_is_read_again(kept):
    path, kind = kept
    assert read_kept(path, kind) == RECORDS[kind]


def test_no_part_of_another_type_passes(kept):
    """Each part of the record is replaced in turn; what still is of the known shape has the type that was there."""
    path, kind = kept
    record = RECORDS[kind]
    for place in places(record):
        for value in WRONG:
            path.write_text(json.dumps(changed(record, place, value)))
            read = read_kept(path, kind)
            if read is None:
                continue
            inner, before = read, record
            for key in place:
                inner, before = inner[key], before[key]
            optional = ("log_likelihoods", "prediction", "gold", "group", "written")
            assert type(inner) is type(before) or place[-1] in optional or {type(inner), type(before)} <= {int, float}
            assert inner != float("inf") and inner == inner and inner != 10**30, place


@pytest.mark.parametrize("change", ["missing", "unknown", "no items"])
def test_no_other_fields_pass(kept, change):
    path, kind = kept
    for field in RECORDS[kind]:
        record = dict(RECORDS[kind])
        if change == "missing":
            del record[field]
        elif change == "unknown":
            record[f"{field}s"] = 1
        else:
            record["items"] = []
        path.write_text(json.dumps(record))
        assert read_kept(path, kind) is None, field


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"3", b'"items"', b"[]"])
def test_what_is_no_record_at_all(kept, content):
    path, kind = kept
    path.write_bytes(content)
    assert read_kept(path, kind) is None
    path.unlink()
    assert read_kept(path, kind) is None
    path.mkdir()
    assert read_kept(path, kind) is None


def test_items_of_different_scores_and_counts_that_do_not_fit(tmp_path):
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(changed(RECORDS[KeptTask], ("items", 1, "scores"), {"f1": 1.0})))
    assert read_kept(path, KeptTask) is None
    for field in ("problems", "correct"):
        path.write_text(json.dumps(changed(RECORDS[KeptAnswers], (field,), 2 if field == "correct" else 3)))
        assert read_kept(path, KeptAnswers) is None


@pytest.mark.parametrize("kind", [KeptText, KeptTask])
def test_another_run_s_record_does_not_count(kind, tmp_path):
    write_record(tmp_path / "a.json", RECORDS[kind])
    assert read_record(tmp_path / "a.json", IDENTITY, kind) == RECORDS[kind]
    assert read_record(tmp_path / "a.json", IDENTITY | {"limit": 3}, kind) is None
