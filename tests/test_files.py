"""Files are written whole, and never through a link."""

import pytest

from limelm.errors import UserError
from limelm.files import append_text, lock, partial_of, refuse_links, write_text


@pytest.fixture
def precious(tmp_path):
    path = tmp_path / "precious"
    path.write_text("precious")
    return path


def test_a_partial_file_that_is_a_link_is_replaced(tmp_path, precious):
    path = tmp_path / "out" / "run.json"
    path.parent.mkdir()
    partial_of(path).symlink_to(precious)
    write_text(path, "new")
    assert path.read_text() == "new" and not path.is_symlink()
    assert precious.read_text() == "precious"


def test_a_file_that_is_a_link_is_replaced(tmp_path, precious):
    path = tmp_path / "run.json"
    path.symlink_to(precious)
    write_text(path, "new")
    assert path.read_text() == "new" and precious.read_text() == "precious"


def test_a_lock_that_is_a_link_is_refused(tmp_path, precious):
    path = tmp_path / ".lock"
    path.symlink_to(precious)
    with pytest.raises(UserError, match=r"\.lock: a symbolic link"), lock(path, "taken"):
        pass
    assert precious.read_text() == "precious"


def test_a_lock_keeps_what_the_file_holds(tmp_path, precious):
    with lock(precious, "taken"):
        pass
    assert precious.read_text() == "precious"


def test_a_log_that_is_a_link_is_refused(tmp_path, precious):
    path = tmp_path / "metrics.jsonl"
    append_text(path, "1\n")
    append_text(path, "2\n")
    assert path.read_text() == "1\n2\n"
    path.unlink()
    path.symlink_to(precious)
    with pytest.raises(UserError, match=r"metrics\.jsonl: a symbolic link"):
        append_text(path, "x")
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", ["summary.json", "seed-1/static/model.safetensors", "seed-1"])
def test_a_folder_of_results_with_links_is_refused(tmp_path, precious, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    refuse_links(out)
    refuse_links(tmp_path / "missing")
    (out / name).symlink_to(precious)
    with pytest.raises(UserError, match=f"{name}: a symbolic link"):
        refuse_links(out)
