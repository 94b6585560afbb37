"""Shards that are changed while a training reads them end it with a line; no result is made of them."""

import os

import pytest

from limelm.errors import UserError
from limelm.training import run, train_model
from tests.recipes import prepared, small_recipe


def overwrite(path):
    data = path.read_bytes()
    path.write_bytes(data[2:] + data[:2])
    os.utime(path, ns=(10**18, 10**18))


def cut_off(path):
    os.truncate(path, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [(overwrite, "its hash is not the manifest's"), (cut_off, "100 bytes, but .* when it was opened")],
)
def test_shards_that_are_changed_in_use_end_the_training(tmp_path, monkeypatch, change, message):
    data, train = prepared(tmp_path / "tokens"), run._train

    def change_and_train(*arguments):
        change(data / "train-00000.bin")
        train(*arguments)

    monkeypatch.setattr(run, "_train", change_and_train)
    with pytest.raises(UserError, match=rf"train-00000\.bin: {message}"):
        train_model(small_recipe(tmp_path), "llama", data, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
