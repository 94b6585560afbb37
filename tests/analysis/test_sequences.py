"""The shards that a model is analyzed on."""

import os

import pytest

from limelm.analysis.sequences import Sequences
from limelm.data.dataset import load_prepared_tokenizer
from limelm.data.shards import Manifest
from limelm.errors import UserError
from tests.recipes import prepared


def test_a_training_split_is_left_out_where_it_is_short_and_never_where_it_is_broken(tmp_path):
    folder = prepared(tmp_path / "tokens", validation_fraction=0.9)
    tokenizer, splits = load_prepared_tokenizer(folder), Manifest.load(folder).splits
    assert splits["train"].tokens < splits["validation"].tokens
    longer = splits["train"].tokens + 1
    assert len(list(Sequences([folder], tokenizer, longer).everything())) == splits["validation"].tokens // longer
    os.truncate(folder / "train-00000.bin", 10)
    with pytest.raises(UserError, match=r"train-00000\.bin: 10 bytes, but the manifest says"):
        Sequences([folder], tokenizer, 16)
