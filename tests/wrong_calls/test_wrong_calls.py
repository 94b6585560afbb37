"""The harness of the wrong calls finds what it is to find (`make wrong-calls` makes them)."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from limelm.errors import UserError
from tests.wrong_calls import all_cases
from tests.wrong_calls.case import Case
from tests.wrong_calls.harness import run


def refuse(message: str = "x: size=5 must be less than 3") -> None:
    raise UserError(message)


def write_and_refuse() -> None:
    Path("left").write_text("behind")
    refuse()


def print_and_refuse() -> None:
    print("a note", file=sys.stderr)
    refuse()


ENDS = {
    "as it must": (refuse, None),
    "silence": (lambda: None, "exit code 0, not 2"),
    "a traceback": (lambda: {}["x"], "exit code 70, not 2"),
    "a signal": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "killed by SIGSEGV"),
    "two lines": (print_and_refuse, "2 lines on stderr"),
    "a file left behind": (write_and_refuse, "left behind or changed: left"),
    "another field": (lambda: refuse("x: width=5 must be less than 3"), "does not name size"),
    "an excuse": (lambda: refuse("size=5 (this is a bug)"), "says 'this is a bug'"),
    "an escape sequence": (lambda: refuse("size=\x1b[2J"), "control characters on the terminal"),
}


@pytest.mark.parametrize("end", ENDS)
def test_every_wrong_end_is_found(tmp_path, end):
    call, fault = ENDS[end]
    (tmp_path / "fixtures").mkdir()
    outcome = run(Case("test", ("x",), ("size",), call=call), tmp_path / "fixtures", tmp_path / "work")
    if fault is None:
        assert outcome.faults == [] and outcome.line == "limelm: error: x: size=5 must be less than 3"
    else:
        assert any(fault in found for found in outcome.faults)


def test_all_commands_and_hundreds_of_calls_are_tried():
    cases = list(all_cases())
    assert len(cases) > 1000
    commands = Counter(case.arguments[0] for case in cases if case.call is None and case.arguments)
    wanted = ("reproduce", "data", "train", "eval", "analyze", "bench", "generate", "plan", "convert")
    assert all(commands[command] >= 20 for command in wanted)


def test_a_part_of_the_wrong_calls_ends_as_it_must():
    command = [sys.executable, "-m", "tests.wrong_calls", "--every", "41"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr[-300:]
