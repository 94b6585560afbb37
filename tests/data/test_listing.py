"""Which files a folder stands for: nothing is left out without a word, and nothing is read twice."""

import errno
import os
from pathlib import Path

import pytest

from limelm.cli import main
from limelm.data.listing import find_files, list_files
from limelm.data.sources import LocalFiles
from limelm.errors import UserError


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def documents(*paths):
    return list(LocalFiles(list_files(list(paths))).open())


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "data" / "b.txt", "b")
    write(tmp_path / "real" / "a.txt", "a")
    write(tmp_path / "real" / "below" / "z.txt", "z")
    return tmp_path / "data"


def test_folders_behind_links_are_read(data):
    (data / "more").symlink_to("../real")
    assert documents(data) == ["b", "a", "z"]
    (data / "b.txt").unlink()
    assert documents(data) == ["a", "z"]


def test_a_named_folder_may_be_a_link(data, tmp_path):
    (tmp_path / "link").symlink_to("real")
    assert documents(tmp_path / "link") == ["a", "z"]


@pytest.mark.parametrize("target", [".", "..", "../..", "loop"])
def test_loops_of_links_end(data, target):
    """A link to a folder that holds it adds nothing, wherever that folder is; one to itself leads nowhere."""
    (data / "below").mkdir()
    (data / "below" / "loop").symlink_to(target)
    if target == "loop":
        with pytest.raises(UserError, match=r"below/loop: .*[Tt]oo many"):
            list_files([data])
    else:
        assert documents(data) == ["b"]


def test_folders_that_link_to_each_other_are_read_once(data, tmp_path):
    (data / "there").symlink_to("../real")
    (tmp_path / "real" / "back").symlink_to("../data")
    assert sorted(documents(data)) == ["a", "b", "z"]


def test_what_several_links_lead_to_is_read_once_at_the_first_path(data):
    for name in ("a-link", "x-link"):
        (data / name).symlink_to("../real")
    (data / "c.txt").symlink_to("b.txt")
    (data / "d.txt").symlink_to("../real/a.txt")
    names = [str(file.relative_to(data)) for file in list_files([data])]
    assert names == ["a-link/a.txt", "a-link/below/z.txt", "b.txt"]
    assert documents(data, data / "b.txt", data) == ["a", "z", "b"]


def test_files_that_are_links_are_read(data, tmp_path):
    """As the caches of the Hugging Face hub lay them."""
    write(tmp_path / "blobs" / "0a1b", "blob")
    (data / "e.txt").symlink_to("../blobs/0a1b")
    assert documents(data) == ["b", "blob"]


def test_the_order_is_alphabetical_by_path(tmp_path):
    paths = ["a.txt", "a/b.txt", "a/b/c.txt", "a/b-c.txt", "B.txt", "a-b/c.txt"]
    for path in paths:
        write(tmp_path / path, path)
    assert [Path(text) for text in documents(tmp_path)] == sorted(Path(path) for path in paths)


def test_a_link_to_nothing_is_named(data):
    for name in ("gone", "gone.txt"):
        (data / name).symlink_to("nowhere")
        with pytest.raises(UserError, match=rf"{name}: a link to nothing"):
            list_files([data])
        (data / name).unlink()


def test_a_folder_that_cannot_be_read_is_named(data, monkeypatch):
    write(data / "closed" / "c.txt", "c")
    listed = Path.iterdir

    def refuse(path):
        if path.name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match="closed: Permission denied"):
        list_files([data])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_rights_is_named(data):
    closed = write(data / "closed" / "c.txt", "c").parent
    closed.chmod(0)
    try:
        with pytest.raises(UserError, match="closed: Permission denied"):
            list_files([data])
    finally:
        closed.chmod(0o700)


@pytest.mark.parametrize("named", [True, False])
def test_what_is_no_regular_file_is_named(data, named):
    os.mkfifo(data / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe\.txt: neither a file nor a folder"):
        list_files([data / "pipe.txt" if named else data])


def test_files_of_other_kinds_are_told(data, capsys, tmp_path):
    for name in ("notes.md", "old.csv"):
        write(data / name, "x")
    write(data / "b.txt", "word " * 400 + "\nword")
    assert find_files([data]).others == [data / "notes.md", data / "old.csv"]
    main(["data", "prepare", str(data), "--out", str(tmp_path / "out"), "--vocab-size", "258"])
    assert f"2 files of other kinds are left out, the first {data / 'notes.md'}" in capsys.readouterr().err
