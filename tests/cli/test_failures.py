import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from limelm.cli import main
from limelm.cli.failures import explain


def raised(function):
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        raised(lambda: np.zeros(2**57)),
        raised(lambda: torch.empty(2**58)),
        raised(lambda: torch.empty(2**62, 2**62)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA error: out of memory"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=lambda error: str(error)[:30],
)
def test_out_of_memory_names_the_settings_and_is_no_bug(error):
    line, code = explain(error, "train", "--micro-batch-size")
    assert code == 2 and line.startswith("train: out of memory; lower --micro-batch-size (") and "bug" not in line


def test_other_errors_are_not_taken_for_it():
    assert explain(RuntimeError("shape mismatch"), "train", "--x")[1] == 1
    assert explain(RecursionError("maximum recursion depth exceeded"), "train") == (
        "train: an input file is nested too deeply; --debug shows where it was read",
        2,
    )


def test_out_of_memory_in_a_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("limelm.benchmark.compare.compare", lambda *arguments: torch.empty(2**58))
    assert main(["bench", "--out", str(tmp_path / "o"), "--workloads", "forward"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    settings = "--batch-size, --sequence-length, --num-hidden-layers, --hidden-size or --vocab-size"
    assert error.startswith(f"limelm: error: bench: out of memory; lower {settings} (")
    assert not (tmp_path / "o").exists()


COMMANDS = {
    "module": ["-m", "limelm"],
    "script": ["-c", "import sys; from limelm.cli import main; sys.exit(main())"],
}


@pytest.mark.parametrize("module", ["torch", "transformers"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_while_libraries_are_imported_shows_no_traceback(tmp_path, command, module):
    """SIGINT at the moment when the import begins, by an import hook that `sitecustomize` puts there."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    finished = subprocess.run(
        [sys.executable, *COMMANDS[command], "generate", str(tmp_path), "x"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell starts with &
    )
    assert finished.returncode == 128 + signal.SIGINT
    assert finished.stderr.startswith("limelm: error: interrupted") and len(finished.stderr.splitlines()) == 1


def test_a_full_disk_behind_stdout_ends_in_one_line():
    with Path("/dev/full").open("w") as full:
        finished = subprocess.run(
            [sys.executable, "-m", "limelm", "plan", "tiny", "--model", "static"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert finished.returncode == 2
    assert finished.stderr == "limelm: error: plan: No space left on device\n"
