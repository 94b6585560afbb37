import json
import pickle
import shutil

import pytest

from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.data.shards import Manifest
from limelm.errors import UserError
from tests.recipes import corpus, prepared


@pytest.fixture
def folder(tmp_path):
    return prepared(tmp_path / "tokens")


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_is_noticed(folder):
    flip_byte(folder / "train-00000.bin")
    with pytest.raises(UserError, match=r"train-00000\.bin: its hash is not the manifest's"):
        TokenDataset(folder, "train", 32)
    assert len(TokenDataset(folder, "validation", 32)) > 0


def test_a_cut_or_missing_shard_is_noticed(folder):
    shard = folder / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match="bytes, but the manifest says"):
        TokenDataset(folder, "train", 32)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00000\.bin: No such file"):
        TokenDataset(folder, "train", 32)


def test_another_tokenizer_is_noticed(folder, tmp_path):
    other = prepared(tmp_path / "other", [text.upper() for text in corpus()])
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(UserError, match="No such file"):
        load_prepared_tokenizer(folder)
    shutil.copytree(other / "tokenizer", folder / "tokenizer")
    with pytest.raises(UserError, match="not the tokenizer"):
        load_prepared_tokenizer(folder)


def test_a_changed_or_broken_manifest_is_noticed(folder):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    for change, message in (
        ({"dtype": "uint32"}, "content_sha256 does not match"),
        ({"format_version": 99}, "format_version=99"),
        ({"splits": {}}, "splits must be train and validation, not none"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=message):
            Manifest.load(folder)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        Manifest.load(folder)
    path.unlink()
    with pytest.raises(UserError, match="not a folder made by"):
        Manifest.load(folder)


def test_too_short_a_split_is_refused(folder):
    tokens = Manifest.load(folder).splits["validation"].tokens
    assert len(TokenDataset(folder, "validation", tokens)) == 1
    with pytest.raises(UserError, match=f"validation split has {tokens} tokens, fewer"):
        TokenDataset(folder, "validation", tokens + 1)


def test_a_data_set_is_sent_to_other_processes(folder):
    train_set = TokenDataset(folder, "train", 32)
    sent = pickle.loads(pickle.dumps(train_set))
    assert len(sent) == len(train_set)
    for index in range(len(sent)):
        assert sent[index]["input_ids"].equal(train_set[index]["input_ids"])
