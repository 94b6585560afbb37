"""Kill a training again and again, at moments that are certain, and see whether it ends where one left alone does.

    python -m tests.training.chaos --kills 20 --out FOLDER            # as in the tests: forks, so that it is quick
    python -m tests.training.chaos --kills 100 --commands --out FOLDER  # whole `limelm train` processes

A moment is the n-th time that a process makes, opens, renames or removes a file of its run. Half of the kills come
while a checkpoint is saved. Prints what it did as JSON, and fails where a trained model or a metrics.jsonl differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from limelm.training import load_recipe, train_model
from limelm.training.trainer import LimeTrainer
from tests.recipes import prepared, write_recipe

MODEL, STEPS, SAVES = "static", 40, 10
CHANGES = (
    ("steps = 4", f"steps = {STEPS}"),
    ("eval_steps = 3", "eval_steps = 10"),
    ("save_steps = 3", "save_steps = 4"),
)
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
KILLED = -signal.SIGKILL


class Operations:
    """Counts this process's operations on the files of a run, and kills it at one of them.

    Args:
        at: which one, from 1; 0 counts only.
        in_saves: whether only those count that a save of a checkpoint makes.
    """

    def __init__(self, run: Path, at: int = 0, in_saves: bool = False):
        self.run, self.at, self.in_saves = str(run), at, in_saves
        self.count, self.is_saving = 0, False
        original = LimeTrainer._save_checkpoint

        def save(*arguments):
            self.is_saving = True
            original(*arguments)
            self.is_saving = False

        LimeTrainer._save_checkpoint = save  # type: ignore[method-assign]
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        if event in EVENTS and str(arguments[0]).startswith(self.run) and (self.is_saving or not self.in_saves):
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


Start = Callable[[Path, int, bool], int]


def chaos(folder: Path, kills: int, seed: int, by_command: bool) -> dict[str, int]:
    """Kill trainings `kills` times, every other time in a save; check every one that ends."""
    recipe, data = write_recipe(folder, *CHANGES), prepared(folder / "tokens")
    run_of = _command if by_command else _fork

    def start(run: Path, at: int, in_saves: bool) -> int:
        return run_of(recipe, data, run, at, in_saves)

    if start(folder / "reference", 0, False) != 0:
        raise SystemExit("the training that was left alone failed")
    counted = json.loads((folder / "reference.count").read_text())
    moments = random.Random(seed)
    done = {"kills": 0, "kills_during_saves": 0, "trainings": 0, "starts": 0}
    while done["kills"] < kills:
        run = folder / f"run-{done['trainings']}"
        while True:
            in_saves = done["kills"] % 2 == 0
            # Of the next four saves, or the time up to them: at least five are left, so that the moment comes.
            most = 4 * (counted["saves"] if in_saves else counted["all"]) // SAVES
            at = 0 if done["kills"] == kills or _steps(run) > STEPS // 2 else moments.randint(1, most)
            status = start(run, at, in_saves)
            done["starts"] += 1
            if status != (KILLED if at else 0):
                raise SystemExit(f"{run}: a start ended with {status} (see {run}.log)")
            if not at:
                break
            done["kills"] += 1
            done["kills_during_saves"] += in_saves
        compare(folder / "reference", run)
        done["trainings"] += 1
    return done


def compare(reference: Path, run: Path) -> None:
    """The same weights bit for bit, and the same losses, each step once."""
    names = ("model.safetensors", "config.json")
    for name in names:
        assert (reference / name).read_bytes() == (run / name).read_bytes(), f"{run / name} differs"
    for name in ("metrics.jsonl", "routers.jsonl"):
        logs = [[json.loads(line) for line in (side / name).read_text().splitlines()] for side in (reference, run)]
        for line in (*logs[0], *logs[1]):
            line.pop("seconds", None)
        assert logs[0] == logs[1], f"{run / name} differs"
    assert [line["step"] for line in _lines(run / "metrics.jsonl")] == list(range(1, STEPS + 1))
    kept = [{path.name for path in (side / "checkpoints").iterdir()} for side in (reference, run)]
    assert kept[0] == kept[1], f"{run / 'checkpoints'}: {kept[1]} are left, not {kept[0]}"


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _steps(run: Path) -> int:
    """Up to where the newest complete checkpoint of a run has come."""
    complete = (run / "checkpoints").glob("checkpoint-*/complete.json")
    return max((int(path.parent.name.split("-")[1]) for path in complete), default=0)


def train(recipe: Path, data: Path, run: Path, at: int, in_saves: bool) -> None:
    """Train in this process, which dies at its `at`-th operation; with 0 the operations are counted."""
    counters = [Operations(run, at, in_saves)] if at else [Operations(run), Operations(run, in_saves=True)]
    train_model(load_recipe(str(recipe)), MODEL, data, run)
    if not at:
        counts = dict(zip(("all", "saves"), (counter.count for counter in counters), strict=True))
        Path(f"{run}.count").write_text(json.dumps(counts))


def _fork(recipe: Path, data: Path, run: Path, at: int, in_saves: bool) -> int:
    """A training in a fork of this process: it starts at once, as all is imported."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        with Path(f"{run}.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            import torch

            torch.set_num_threads(1)
            tqdm.set_lock(threading.RLock())  # tqdm's own is shared with forks: a kill may leave it locked
            train(recipe, data, run, at, in_saves)
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _command(recipe: Path, data: Path, run: Path, at: int, in_saves: bool) -> int:
    """A training as people start it."""
    arguments = ["train", str(recipe), "--model", MODEL, "--data", str(data), "--out", str(run)]
    if at:
        counters = f"Operations({str(run)!r}, {at}, {in_saves})"
    else:
        counters = f"counters = [Operations({str(run)!r}), Operations({str(run)!r}, in_saves=True)]"
    code = (
        "import json, sys; from pathlib import Path; from limelm.cli import main; "
        f"from tests.training.chaos import Operations; {counters}; status = main(sys.argv[1:])"
    )
    if not at:
        count = "{'all': counters[0].count, 'saves': counters[1].count}"
        code += f"; Path({f'{run}.count'!r}).write_text(json.dumps({count}))"
    with Path(f"{run}.log").open("a") as log:
        command = [sys.executable, "-c", f"{code}; sys.exit(status)", *arguments]
        return subprocess.call(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    print(json.dumps(chaos(options.out, options.kills, options.seed, options.commands)))
