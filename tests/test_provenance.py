"""How a file was made is said in words that others may read."""

import re
from pathlib import Path

import pytest

from limelm.provenance import provenance, published_command, shown_path


@pytest.mark.parametrize(
    ("arguments", "published"),
    [
        (
            ["/usr/local/bin/limelm", "train", "tiny", "--model", "kv", "--out", "/home/me/run"],
            "limelm train tiny --model kv --out run",
        ),
        (["/x/limelm/__main__.py", "reproduce", "--data=/home/me/my tokens"], "limelm reproduce '--data=my tokens'"),
        (["limelm", "train", "--from", "org/model", "--steps", "5"], "limelm train --from org/model --steps 5"),
        (["limelm", "plan", "/home/me/my.toml"], "limelm plan my.toml"),
        (
            ["limelm", "analyze", "demo/seed-42/kv", "--data", "demo/data"],
            "limelm analyze demo/seed-42/kv --data demo/data",
        ),
    ],
)
def test_a_command_names_no_folder_of_the_machine(arguments, published):
    assert published_command(arguments) == published


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("demo/seed-42/kv", "demo/seed-42/kv"),
        ("kv", "kv"),
        (".", "."),
        ("/home/somebody/runs/demo/seed-42/kv", "kv"),
        ("/kv", "kv"),
        ("../other/runs/kv", "kv"),
        ("../kv", "kv"),
        ("demo/../../somebody/kv", "kv"),
    ],
)
def test_paths_are_shown_without_what_is_of_this_machine(path, shown):
    assert shown_path(path) == shown_path(Path(path)) == shown


def test_date_and_commit():
    made = provenance()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made["date"])
    assert made["commit"] is None or re.fullmatch(r"[0-9a-f]{12}(-dirty)?", made["commit"])
