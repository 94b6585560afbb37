"""Make a call in a process of its own, and say what is wrong with how it ended."""

import faulthandler
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.wrong_calls.case import Case

#: Seconds. Only what hangs takes longer; the machine may be busy.
TIME_LIMIT = 180.0
#: What a call may map beyond what is mapped already. Whatever needs more is no wrong call but a bomb.
MEMORY_LIMIT = 6 * 2**30

_PROGRESS = re.compile(r"\[\d+:\d\d[<,]|\?\ ?\w+/s|it/s|s/it|%\||^(training the tokenizer|tokenizing|Map:)")
_ADVICE = re.compile(r"this is a bug|Traceback|weights_only=False|trust_remote_code=True|RUST_BACKTRACE|panicked", re.I)


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `faults` is empty where it ended as it must."""

    case: Case
    faults: list[str]
    line: str
    seconds: float


def import_once() -> None:
    """Import what the calls will need, so that none has to."""
    import peft  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    torch.set_num_threads(1)


def run(case: Case, fixtures: Path, work: Path, time_limit: float = TIME_LIMIT) -> Outcome:
    """Copy what the case names into the new folder `work`, break it, call, and look at what is left."""
    _copy_fixtures(case, fixtures, work)
    output, errors = work.with_name("stdout"), work.with_name("stderr")
    begin = time.monotonic()
    before: dict[str, object] = {}
    here = Path.cwd()
    os.chdir(work)
    try:
        if case.change:
            case.change()
        before = snapshot(Path())
        ended = _in_a_process(case, output, errors, time_limit)
        after = snapshot(Path())
    finally:
        os.chdir(here)
    text = errors.read_text(encoding="utf-8", errors="replace")
    shown = output.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip() and not _PROGRESS.search(line)]
    faults = [*_end_faults(case, ended), *_line_faults(case, lines), *_output_faults(text + shown)]
    changed = sorted({path for path, _ in before.items() ^ after.items()})
    faults += [f"left behind or changed: {path}" for path in changed[:3]]
    shutil.rmtree(work)
    return Outcome(case, faults, " / ".join(lines)[:600], time.monotonic() - begin)


def snapshot(folder: Path) -> dict[str, object]:
    """Every path below a folder, with its content."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = hash(path.read_bytes())
        else:
            found[str(path)] = "folder" if path.is_dir() else "special"
    return found


def _copy_fixtures(case: Case, fixtures: Path, work: Path) -> None:
    """What the call's words begin with, and what an adapter's base or a run's data needs."""
    work.mkdir(parents=True)
    words = {word for argument in case.arguments for word in re.split(r"[=/,\s]", argument)}
    needs = {"A": {"L"}, "P": {"L"}, "R": {"T", "small.toml"}, "K": {"T", "small.toml"}, "E": {"M", "T"}}
    words |= {need for word in words & needs.keys() for need in needs[word]}
    for path in fixtures.iterdir():
        if path.name in words:
            (shutil.copytree if path.is_dir() else shutil.copy)(path, work / path.name)


def _in_a_process(case: Case, output: Path, errors: Path, time_limit: float) -> int:
    """The exit code, or minus the number of the signal that ended the call."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            faulthandler.disable()
            os.setpgid(0, 0)
            for path, descriptor in ((output, 1), (errors, 2)):
                os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", encoding="utf-8") for descriptor in (1, 2))
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_LIMIT,) * 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = _call(case)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + time_limit
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM


def _call(case: Case) -> int:
    """The command line, or a function, whose errors are shown as the command line shows them."""
    from limelm.cli import main
    from limelm.errors import UserError

    try:
        if case.call is None:
            return main(list(case.arguments))
        case.call()
    except SystemExit as end:  # argparse
        return int(end.code or 0)
    except (UserError, ValueError) as error:
        print(f"limelm: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _end_faults(case: Case, ended: int) -> list[str]:
    if ended == case.code:
        return []
    if ended == -signal.SIGALRM:
        return ["no end in the time"]
    return [f"killed by {signal.Signals(-ended).name}" if ended < 0 else f"exit code {ended}, not {case.code}"]


def _line_faults(case: Case, lines: list[str]) -> list[str]:
    if len(lines) != 1:
        return [f"{len(lines)} lines on stderr"]
    line = lines[0]
    faults = [] if re.match(r"limelm[\w ]*: error: ", line) else ["not an error line"]
    for name in case.names:
        if not any(alternative in line for alternative in name.split("|")):
            faults.append(f"does not name {name}")
    if len(line) > 1200:
        faults.append(f"a line of {len(line)} characters")
    return faults


def _output_faults(text: str) -> list[str]:
    faults = [f"says {found[0]!r}" for found in [_ADVICE.search(text)] if found]
    if re.search("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e]|\x1b(?!\\[A)", text):
        faults.append("control characters on the terminal")
    return faults
