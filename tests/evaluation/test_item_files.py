"""The names of items' files: any label stays in the items' folder, and no two share a file."""

from pathlib import Path

import pytest

from limelm.evaluation.items import file_name

LABELS = [
    "LIMe static, top-p 0.9",
    "a/b",
    "a_b",
    ".",
    "..",
    "...",
    ". .",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\x",
    "",
    " ",
    "a ",
    "a.",
    ".hidden",
    "x" * 400,
    "x" * 400 + "y",
    "é" * 200,
    "é" * 199 + "x",
    "模型",
    "a\x00b",
    "a\nb",
    "a\x1b[31m",
    "a\u202eb",
    "\ud800",
    "CON",
    "a:b",
    "a*?<>|b",
]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("what", ["copa-1-shot", *LABELS[3:6], LABELS[15]])
def test_a_file_is_made_below_its_folder_whatever_it_is_called(label, what, tmp_path):
    items = tmp_path / "out" / "items"
    path = items / file_name(label, what)
    path.parent.mkdir(parents=True)
    path.write_text("record")
    path.with_name(f".{path.name}.partial").write_text("as it is written")
    assert path.resolve().parent.parent == items.resolve() and path.name.isprintable()
    assert [Path(found).name for found in tmp_path.iterdir()] == ["out"]
    assert not any(part.startswith(".") for part in (path.name, path.parent.name))


def test_no_two_labels_share_a_folder():
    assert len({file_name(label, "copa") for label in LABELS}) == len(LABELS)


def test_what_can_stay_as_it_is_does():
    assert file_name("LIMe static, top-p 0.9", "arc_easy-1-shot").endswith("/arc_easy-1-shot.json")
    assert file_name("kv (run)", "a.b") == "kv (run)/a.b.json"
