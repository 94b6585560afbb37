"""What `make test-hf` counts as a difference from Llama."""

from types import SimpleNamespace

import pytest

from tests.hf.__main__ import INTENDED_SKIPS, Outcomes, differences

INTENDED = next(iter(INTENDED_SKIPS))


@pytest.mark.parametrize(
    ("llama", "ours", "found"),
    [
        ({"test_a": "passed"}, {"test_a": "passed"}, []),
        ({"test_a": "passed"}, {"test_a": "failed"}, ["test_a: failed"]),
        ({"test_a": "passed"}, {"test_a": "skipped"}, ["test_a: skipped"]),
        ({"test_a": "passed"}, {}, ["test_a: not run"]),
        ({"test_a": "failed"}, {"test_a": "failed"}, []),
        ({"test_a": "skipped"}, {"test_a": "failed"}, []),
        ({INTENDED: "passed"}, {INTENDED: "skipped"}, []),
        ({INTENDED: "passed"}, {INTENDED: "failed"}, [f"{INTENDED}: failed"]),
    ],
)
def test_differences(llama, ours, found):
    assert differences(llama, ours) == found


def report(outcome: str, when: str = "call") -> SimpleNamespace:
    named = {f"{name}": name == outcome for name in ("passed", "failed", "skipped")}
    return SimpleNamespace(nodeid="tests/hf/common.py::TestLimeKV::test_a", when=when, **named)


@pytest.mark.parametrize(
    ("reports", "outcome"),
    [
        ([report("passed", "setup"), report("passed"), report("passed", "teardown")], "passed"),
        ([report("passed", "setup"), report("failed"), report("passed")], "failed"),  # a part of it has failed
        ([report("passed", "setup"), report("passed"), report("failed", "teardown")], "failed"),
        ([report("skipped", "setup")], "skipped"),
        ([report("passed", "setup"), report("skipped"), report("passed", "teardown")], "skipped"),
    ],
)
def test_a_test_is_what_its_worst_part_is(reports, outcome):
    outcomes = Outcomes()
    for entry in reports:
        outcomes.pytest_runtest_logreport(entry)
    assert outcomes.by_model == {"LimeKV": {"test_a": outcome}}
