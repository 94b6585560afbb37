"""docs/paper.md says what the committed numbers say."""

import pytest

from tests.scripts import load_script

paper = load_script("runs/paper.py")


def test_the_page_is_made_of_the_numbers_that_are_committed():
    assert paper.main(["--check"]) == 0, "python runs/paper.py writes the page anew"


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table to read, of one row."""
    monkeypatch.setattr(paper, "ROOT", tmp_path)

    def write(**row):
        (tmp_path / "table.csv").write_text(",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
        return {"file": "table.csv", "row": {}}

    return write


@pytest.mark.parametrize(
    ("low", "high", "expected", "verdict"),
    [
        (-0.3, -0.1, "lower", paper.OTHER),
        (-0.3, 0.1, "lower", paper.UNSEEN),
        (0.1, 0.3, "lower", paper.AGAINST),
        (0.1, 0.3, "higher", paper.OTHER),
        (-0.1, 0.1, "equal", paper.OTHER),
        (0.1, 0.3, "equal", paper.AGAINST),
    ],
)
def test_a_difference_is_judged_by_its_interval(table, low, high, expected, verdict):
    claim = table(difference=0.0, t_low=low, t_high=high, seeds=3)
    measured, found = paper.judge(claim | {"read": "difference", "expected": expected, "unit": "nats"})
    assert found == verdict and measured == f"+0.000 nats ({low:+.3f} to {high:+.3f}), 3 seeds"


@pytest.mark.parametrize(
    ("value", "scale", "verdict"),
    [
        (1.0003, "the paper's, counted", paper.SAME),
        (1.0003, "a CPU", paper.OTHER),
        (1.0008, "the paper's, counted", paper.AGAINST),
        (1.0008, "a CPU", paper.AGAINST),
    ],
)
def test_a_number_is_judged_by_its_distance_and_scale(table, value, scale, verdict):
    claim = table(ratio=value) | {"read": "equal", "column": "ratio", "printed": 1.00031, "tolerance": 0.0001}
    assert paper.judge(claim | {"scale": scale})[1] == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(1, 1.1, paper.OTHER), (1, 1.3, paper.UNSEEN), (1.5, 2, paper.AGAINST)]
)
def test_a_cost_is_judged_by_its_quartiles(tmp_path, monkeypatch, low, high, verdict):
    monkeypatch.setattr(paper, "ROOT", tmp_path)
    rows = [f"a,1,{low},{high},5", "b,1.3,1.2,1.4,5"]
    (tmp_path / "t.csv").write_text("\n".join(["case,ratio,ratio_lower_quartile,ratio_upper_quartile,rounds", *rows]))
    claim = {"read": "cheaper", "file": "t.csv", "row": {"case": "a"}, "than": {"case": "b"}}
    assert paper.judge(claim)[1] == verdict


def test_what_was_not_measured_has_no_other_verdict(table):
    assert paper.judge({"says": "anything"}) == ("", paper.MISSING)
    with pytest.raises(LookupError, match="0 rows"):
        paper.judge(table(model="a") | {"read": "equal", "row": {"model": "b"}, "column": "model", "printed": 1})
