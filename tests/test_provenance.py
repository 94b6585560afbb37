"""How a file was made is said in words that others may read."""

import re

import pytest

from limelm.provenance import provenance, published_command, published_name


@pytest.mark.parametrize(
    ("arguments", "published"),
    [
        (["/usr/local/bin/limelm", "train", "tiny-kv", "--out", "/home/me/run"], "limelm train tiny-kv --out run"),
        (["/x/limelm/__main__.py", "reproduce", "--data=/home/me/my tokens"], "limelm reproduce '--data=my tokens'"),
        (["limelm", "train", "--from", "org/model", "--steps", "5"], "limelm train --from org/model --steps 5"),
        (["limelm", "plan", "/home/me/my.toml"], "limelm plan my.toml"),
    ],
)
def test_a_command_names_no_folder_of_the_machine(arguments, published):
    assert published_command(arguments) == published


def test_a_folder_is_named_by_its_last_name(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    assert published_name(".") == published_name("../model") == published_name(str(tmp_path / "model")) == "model"
    assert published_name("org/model") == "org/model"


def test_date_and_commit():
    made = provenance()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made["date"])
    assert made["commit"] is None or re.fullmatch(r"[0-9a-f]{12}(-dirty)?", made["commit"])
