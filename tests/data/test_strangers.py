"""Prepared folders of strangers: whatever their manifest and shards say, hashes right or not, they end in one line."""

import contextlib
import copy
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.data.shards import Manifest
from limelm.errors import UserError
from tests.recipes import prepared


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("whole") / "tokens", tokens_per_shard=600)


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "tokens")


def content_sha256(content):
    """Written anew from the format, so that a changed manifest has the right hash."""
    text = f"{content['tokenizer_sha256']} {content['dtype']}"
    for name in ("train", "validation"):
        for shard in content["splits"][name]["shards"]:
            text += f" {name} {shard['tokens']} {shard['sha256']}"
    return hashlib.sha256(text.encode()).hexdigest()


def rewrite(folder, change):
    """Change a folder's manifest, and make its hash right again wherever there still is one to make."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        content["content_sha256"] = content_sha256(content)
    path.write_text(json.dumps(content))


def at(*keys, value):
    """A change that sets the value at the end of keys."""

    def change(content):
        *inner, last = keys
        for key in inner:
            content = content[key]
        content[last] = value

    return change


FIRST = ("splits", "train", "shards", 0)
WRONG_TYPES = (None, True, -1, 1.5, "x", [], {}, 2**70, float("nan"))


def cases():
    """Every field with every type that it must not have."""
    allowed = {
        ("source",): (str,),
        ("vocab_size",): (int,),
        ("bos_token_id",): (int,),
        ("eos_token_id",): (int,),
        ("tokenizer_sha256",): (),
        ("dtype",): (),
        ("format_version",): (),
        ("splits",): (),
        ("splits", "train"): (),
        ("splits", "train", "documents"): (int,),
        ("splits", "train", "tokens"): (),
        ("splits", "train", "bytes"): (int,),
        ("splits", "train", "shards"): (),
        FIRST: (),
        (*FIRST, "file"): (str,),
        (*FIRST, "tokens"): (),
        (*FIRST, "sha256"): (),
    }
    for keys, types in allowed.items():
        for value in WRONG_TYPES:
            fits = type(value) in types and not (type(value) is int and (value < 0 or value >= 2**63))
            if not fits:
                yield pytest.param(keys, value, id=f"{'.'.join(map(str, keys))}={value!r}")


@pytest.mark.parametrize(("keys", "value"), cases())
def test_a_field_of_another_type_is_named(folder, keys, value):
    rewrite(folder, at(*keys, value=value))
    with pytest.raises(UserError, match=rf"manifest\.json: .*{keys[-1] if keys[-1] != 0 else 'shards'}") as raised:
        Manifest.load(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        *(
            (("dtype",), dtype, rf"manifest\.json: dtype='{dtype}' must be 'uint16' or 'uint32'")
            for dtype in ("object", "O", "int16", "S2", "", "uint64", "float32", "uint8")
        ),
        *(
            ((*FIRST, "file"), name, r"splits\.train\.shards\[0\]\.file=.* must be the name of a file in the same")
            for name in ("../x", "/etc/passwd", "a/b", "..", "", "a\\b", "C:x")
        ),
        ((*FIRST, "file"), "a\x1b]0;x\x07", "must be a text without control characters"),
        ((*FIRST, "sha256"), "A" * 64, "sha256=.* must be 64 hexadecimal digits"),
        (("tokenizer_sha256",), "0" * 63, "tokenizer_sha256=.* must be 64 hexadecimal digits"),
        (("vocab_size",), 0, "vocab_size=0 must be at least 1"),
        (("vocab_size",), 2**32 + 1, "vocab_size=4294967297 must be at most 4294967296"),
        (("vocab_size",), 2**16 + 1, "dtype='uint16' has no room for vocab_size=65537"),
        (("bos_token_id",), 300, "bos_token_id=300 must be less than vocab_size=300"),
        (("eos_token_id",), 300, "eos_token_id=300 must be less than vocab_size=300"),
        (("splits", "test"), {}, r"splits\.test: no value for documents, tokens, bytes, shards"),
        (("splits", "train", "tokens"), 3, r"splits\.train\.tokens=3 must be the sum of its shards"),
        ((*FIRST, "tokens"), 0, r"shards\[0\]\.tokens=0 must be at least 1"),
        (("extra",), 3, "unknown field 'extra'"),
        ((*FIRST, "offset"), 3, "unknown field 'offset'"),
        (("source",), "a\x1b[2J", "source=.* must be a text without control characters"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(folder, keys, value, message):
    rewrite(folder, at(*keys, value=value))
    with pytest.raises(UserError, match=message):
        Manifest.load(folder)


def test_splits_are_exactly_train_and_validation(folder):
    def rename(content):
        content["splits"]["test"] = content["splits"].pop("validation")

    def add(content):
        content["splits"]["test"] = copy.deepcopy(content["splits"]["validation"])

    for change in (add, rename):
        rewrite(folder, change)
        with pytest.raises(UserError, match="splits must be train and validation, not train,"):
            Manifest.load(folder)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"x"', "", "[" * 100_000, "{}", '{"format_version": 2}'])
def test_what_is_no_manifest_is_named(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: "):
        Manifest.load(folder)


def test_a_shard_of_pointers_is_refused_before_it_is_mapped(folder):
    """Every 8 bytes of an "object" array would be taken for the address of a Python object."""

    def change(content):
        content["dtype"] = "object"
        for split in content["splits"].values():
            split["tokens"] = 0
            for shard in split["shards"]:
                data = b"A" * 8 * 512
                (folder / shard["file"]).write_bytes(data)
                shard |= {"tokens": 512, "sha256": hashlib.sha256(data).hexdigest()}
                split["tokens"] += 512

    rewrite(folder, change)
    with pytest.raises(UserError, match="dtype='object' must be 'uint16' or 'uint32'"):
        TokenDataset(folder, "train", 32)


def write_ids(folder, number, ids):
    """Other ids in a shard of the training split, and a manifest that knows them."""

    def change(content):
        shard = content["splits"]["train"]["shards"][number]
        data = ids.astype(content["dtype"]).tobytes()
        (folder / shard["file"]).write_bytes(data)
        content["splits"]["train"]["tokens"] += len(ids) - shard["tokens"]
        shard |= {"tokens": len(ids), "sha256": hashlib.sha256(data).hexdigest()}

    rewrite(folder, change)


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("position", [0, 777, -1])
def test_an_id_beyond_the_vocabulary_is_found_when_the_folder_is_opened(folder, number, position):
    ids = np.full(800, 299)
    write_ids(folder, number, ids)
    assert len(TokenDataset(folder, "train", 32)) > 0
    ids[position] = 300
    write_ids(folder, number, ids)
    with pytest.raises(UserError, match=r"\.bin: holds token id 300; allowed: less than .*vocab_size=300"):
        TokenDataset(folder, "train", 32)
    unverified = TokenDataset(folder, "train", 32, verify=False)
    with pytest.raises(UserError, match=r"\.bin: holds token id 300"):
        list(unverified.chunks())


@pytest.mark.parametrize("left", [0, 100, 1100])
def test_a_shard_that_is_cut_off_in_use_is_noticed_at_the_next_reading(folder, left):
    data = TokenDataset(folder, "train", 32)
    first = data[0]["input_ids"].tolist()
    os.truncate(folder / "train-00000.bin", left)
    with pytest.raises(UserError, match=rf"train-00000\.bin: {left} bytes, but \d+ when it was opened"):
        data[0]
    assert len(first) == 32 and len(data[len(data) - 1]["input_ids"]) == 32  # other shards can be read


@pytest.mark.parametrize("by_rename", [False, True])
def test_a_shard_that_is_overwritten_in_use_is_noticed_at_the_end(folder, tmp_path, by_rename):
    data, path = TokenDataset(folder, "train", 32), folder / "train-00001.bin"
    data.check_unchanged()
    whole = path.read_bytes()

    def overwrite(content, time):
        target = tmp_path / "new" if by_rename else path
        target.write_bytes(content)
        os.utime(target, ns=(time, time))
        target.replace(path)

    overwrite(whole, 10**18)  # the same content again
    data.check_unchanged()
    overwrite(whole[:-2] + whole[:2], 10**18 + 1)
    with pytest.raises(UserError, match=r"train-00001\.bin: its hash is not the manifest's"):
        data.check_unchanged()
    overwrite(whole[:-1], 10**18 + 2)
    with pytest.raises(UserError, match=r"train-00001\.bin: its hash is not the manifest's"):
        data.check_unchanged()
    path.unlink()
    with pytest.raises(UserError, match=r"train-00001\.bin: No such file"):
        data.check_unchanged()


def test_what_is_no_file_of_the_folder_is_refused(folder, tmp_path):
    shard = folder / "train-00000.bin"
    shard.rename(tmp_path / "elsewhere.bin")
    shard.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(UserError, match=r"train-00000\.bin: a link to another folder"):
        TokenDataset(folder, "train", 32)
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(UserError, match=r"train-00000\.bin: not a file"):
        TokenDataset(folder, "train", 32)


def test_other_special_tokens_than_the_manifests_are_refused(folder):
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token": "x"}))
    with pytest.raises(UserError, match=r"tokens: bos_token_id=0 in the manifest, \d+ in the tokenizer"):
        load_prepared_tokenizer(folder)
    for name in ("tokenizer.json",):
        (folder / "tokenizer" / name).unlink()
        os.mkfifo(folder / "tokenizer" / name)
        with pytest.raises(UserError, match=r"tokenizer\.json: not a file"):
            load_prepared_tokenizer(folder)


def test_chunks_are_the_split_in_order(whole):
    data = TokenDataset(whole, "train", 32)
    expected = np.concatenate([np.fromfile(path, "uint16") for path in sorted(whole.glob("train-*.bin"))])
    for tokens in (1, 599, 601, 10**6):
        chunks = list(data.chunks(tokens))
        assert max(map(len, chunks)) <= tokens
        assert np.concatenate(chunks).tolist() == expected.tolist()
