import numpy as np
import pytest

from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.data.holdout import HoldOut
from limelm.data.prepare import prepare
from limelm.data.shards import Manifest
from limelm.data.sources import LocalFiles, list_python_library
from limelm.errors import UserError
from tests.recipes import corpus, prepared


def hold_out(documents, fraction):
    """The split of each document, with its text."""
    named = HoldOut.find(documents, fraction, "a test")
    return [piece for text in documents for piece in named.pieces(text)]


def split_tokens(folder, split):
    """All token ids of a split, read without the library's data set."""
    manifest = Manifest.load(folder)
    return np.concatenate(
        [np.fromfile(folder / shard.file, dtype=manifest.dtype) for shard in manifest.splits[split].shards]
    )


def test_shards_hold_bos_document_eos_in_order(tmp_path):
    documents = corpus()
    folder = prepared(tmp_path / "tokens", documents)
    tokenizer, manifest = load_prepared_tokenizer(folder), Manifest.load(folder)
    for split in ("train", "validation"):
        expected = [text for name, text in hold_out(documents, 0.2) if name == split]
        tokens = split_tokens(folder, split)
        assert tokens[0] == manifest.bos_token_id and tokens[-1] == manifest.eos_token_id
        ends = np.flatnonzero(tokens == manifest.eos_token_id)
        pieces = np.split(tokens, ends[:-1] + 1)
        assert all(piece[0] == manifest.bos_token_id for piece in pieces)
        assert [tokenizer.decode(piece[1:-1]) for piece in pieces] == expected
        assert manifest.splits[split].documents == len(expected)
        assert manifest.splits[split].tokens == len(tokens)
        assert manifest.splits[split].bytes == sum(len(text.encode()) for text in expected)
    assert manifest.dtype == "uint16"


def test_shard_size_changes_nothing_that_is_read(tmp_path):
    whole = TokenDataset(prepared(tmp_path / "whole"), "train", 32)
    folder = prepared(tmp_path / "pieces", tokens_per_shard=70)
    pieces = TokenDataset(folder, "train", 32)
    assert len(Manifest.load(folder).splits["train"].shards) > 5
    assert len(whole) == len(pieces) > 10
    tokens = split_tokens(folder, "train")
    for index in range(len(whole)):
        item = pieces[index]
        assert item["input_ids"].tolist() == tokens[32 * index : 32 * index + 32].tolist()
        assert item["input_ids"].tolist() == whole[index]["input_ids"].tolist() == item["labels"].tolist()
    with pytest.raises(IndexError):
        pieces[len(pieces)]


def test_same_documents_give_the_same_content(tmp_path):
    hashes = {Manifest.load(prepared(tmp_path / name)).content_sha256 for name in "ab"}
    assert len(hashes) == 1
    assert Manifest.load(prepared(tmp_path / "c", corpus(31))).content_sha256 not in hashes


def test_held_out_copies_stand_on_one_side():
    documents = corpus(200) * 2
    sides = {}
    for split, text in hold_out(documents, 0.3):
        assert sides.setdefault(text, split) == split
    held_out = sum(side == "validation" for side in sides.values())
    assert 30 < held_out < 90
    assert sides[documents[0]] == "train" and sides[documents[1]] == "validation"


def test_copies_of_the_first_document_do_not_empty_a_side():
    assert (hold_out(["a", "a", "b", "a"], 0.001)) == [
        ("train", "a"),
        ("train", "a"),
        ("validation", "b"),
        ("train", "a"),
    ]
    assert hold_out(["a\nb\n"] * 2, 0.5) == [("train", "a\n"), ("validation", "b\n")] * 2


def test_two_documents_fill_both_sides_and_empty_ones_count_for_nothing():
    assert (hold_out(["", "one", " \n", "two", "two"], 0.01)) == [
        ("train", "one"),
        ("validation", "two"),
        ("validation", "two"),
    ]


def test_of_a_single_document_the_end_is_held_out():
    lines = [f"line {number}\n" for number in range(100)]
    (train, head), (validation, tail) = hold_out(["".join(lines)], 0.1)
    assert (train, validation) == ("train", "validation")
    assert head == "".join(lines[:90]) and tail == "".join(lines[90:])
    with pytest.raises(UserError, match="a test: no text"):
        hold_out(["only one line"], 0.1)


def test_special_tokens_in_the_text_are_letters(tmp_path):
    documents = [f"{text} <eos> <bos>" for text in corpus()]
    folder = prepared(tmp_path / "tokens", documents)
    assert (split_tokens(folder, "train") == Manifest.load(folder).eos_token_id).sum() == Manifest.load(folder).splits[
        "train"
    ].documents


def test_ids_are_those_of_the_tokenizer(tmp_path):
    documents = [f"{text} <eos>\u00a0 <bos>\n\n ünï {'x' * 300}" for text in corpus()]
    folder = prepared(tmp_path / "tokens", documents)
    tokenizer = load_prepared_tokenizer(folder)
    expected = []
    for split, text in hold_out(documents, 0.2):
        if split == "train":
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            expected += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    assert split_tokens(folder, "train").tolist() == expected


def test_a_given_tokenizer_is_used_as_it_is(tmp_path):
    first = prepared(tmp_path / "first")
    second = tmp_path / "second"
    manifest = prepare(second, lambda: corpus(12), "more", tokenizer=str(first / "tokenizer"))
    assert manifest.tokenizer_sha256 == Manifest.load(first).tokenizer_sha256
    assert manifest.vocab_size == 300


def test_embedded_default_is_the_library_without_tests(tmp_path):
    files = list_python_library()
    assert len(files) > 300
    assert not [file for file in files if {"test", "tests", "site-packages"} & set(file.parts[-3:-1])]
    manifest = prepare(
        tmp_path / "tokens", LocalFiles(list_python_library()), "library", vocab_size=600, max_documents=40
    )
    assert manifest.splits["train"].documents + manifest.splits["validation"].documents <= 40
    assert manifest.splits["train"].tokens > 10_000


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "no text"),
        (["", "  \n"], {}, "no text"),
        (["abc"], {"tokenizer": "TOKENIZER"}, "no text"),
        (["short", "text"], {"vocab_size": 4096}, "too short for a tokenizer of 4096"),
        (["some", "text"], {"vocab_size": 100}, "vocab_size=100"),
        (["some", "text"], {"validation_fraction": 0.0}, "validation_fraction=0.0"),
        (["some", "text"], {"validation_fraction": 1.5}, "validation_fraction=1.5"),
        (["some", "text"], {"processes": 0}, "processes=0"),
        (["some", "text"], {"tokenizer": "no/such/tokenizer"}, "no/such/tokenizer"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, documents, options, message):
    if options.get("tokenizer") == "TOKENIZER":
        options = {"tokenizer": str(prepared(tmp_path / "other") / "tokenizer")}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "out", lambda: documents, "a test", **{"vocab_size": 258, **options})
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_folder_is_refused(tmp_path):
    folder = prepared(tmp_path / "tokens")
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="already there"):
        prepared(folder)
    assert (folder / "manifest.json").read_bytes() == before
