import json

import pytest

from limelm.errors import UserError
from limelm.training.jsonl import append_line, drop_lines_after, read_lines

LINE = {"tokens": 8, "seconds": 0.5}


def read_steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_after_a_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert drop_lines_after(path, 3) == [] and not path.exists()
    for step in (1, 2, 2, 3):
        append_line(path, {**LINE, "step": step, "loss": step / 3})
    before = path.read_text()
    assert drop_lines_after(path, 3)[-1] == {**LINE, "step": 3, "loss": 1.0} and path.read_text() == before
    assert drop_lines_after(path, 2)[2:] == [{**LINE, "step": 2, "loss": 2 / 3}]
    assert read_steps(path) == [1, 2, 2]
    assert list(tmp_path.iterdir()) == [path]
    assert drop_lines_after(path, 0) == [] and path.read_text() == ""


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3', "{", '{"step"\x00\x00', "\x00"])
def test_what_a_crash_left_of_a_line_is_dropped(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    append_line(path, {**LINE, "step": 1})
    append_line(path, {**LINE, "step": 2})
    with path.open("a") as stream:
        stream.write(torn)
    assert drop_lines_after(path, 5) == [{**LINE, "step": 1}, {**LINE, "step": 2}]
    append_line(path, {**LINE, "step": 3})
    assert read_steps(path) == [1, 2, 3]


@pytest.mark.parametrize("middle", ["no json", '{"loss": 1}', "[2]", '{"step": null}', ""])
def test_a_file_that_is_broken_elsewhere_is_refused(tmp_path, middle):
    path = tmp_path / "metrics.jsonl"
    first, last = (json.dumps({**LINE, "step": step}) for step in (1, 3))
    path.write_text(f"{first}\n{middle}\n{last}\n")
    before = path.read_text()
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2: "):
        drop_lines_after(path, 5)
    assert path.read_text() == before


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        append_line(tmp_path / "nowhere" / "metrics.jsonl", {"step": 1})


def test_a_field_of_an_earlier_version_is_refused_by_its_name(tmp_path):
    layer = {"layer": 1, "entropy": 0.1, "normalised_entropy": 0.2, "self_weight": 0.5}
    append_line(tmp_path / "routers.jsonl", {"step": 1, "layers": [layer]})
    with pytest.raises(UserError, match=r"layers\[0\]: unknown field 'normalised_entropy'; did you mean 'normalized_e"):
        read_lines(tmp_path / "routers.jsonl")
