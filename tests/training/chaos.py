"""Kill a training again and again, and see whether it ends where one that was left alone does.

    python -m tests.training.chaos --kills 20 --out FOLDER            # as in the tests: forks, so that it is quick
    python -m tests.training.chaos --kills 100 --commands --out FOLDER  # whole `limelm train` processes

Prints what it did as JSON, and fails where a trained model or a metrics.jsonl differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from limelm.training import load_recipe, train_model
from tests.recipes import prepared, write_recipe

MODEL = "static"
CHANGES = (("steps = 4", "steps = 40"), ("eval_steps = 3", "eval_steps = 10"), ("save_steps = 3", "save_steps = 4"))


def chaos(folder: Path, kills: int, seed: int, by_command: bool) -> dict[str, int]:
    """Kill trainings until `kills` kills have hit one that was at work; check every one that ends."""
    recipe, data = write_recipe(folder, *CHANGES), prepared(folder / "tokens")

    def start(run: Path) -> Callable[[bool], int | None]:
        return _command(recipe, data, run) if by_command else _fork(recipe, data, run)

    began = time.monotonic()
    if start(folder / "reference")(True) != 0:
        raise SystemExit("the training that was left alone failed")
    duration = time.monotonic() - began
    moments = random.Random(seed)
    done = {"kills": 0, "kills_during_saves": 0, "trainings": 0, "starts": 0}
    while done["kills"] < kills or done["trainings"] == 0:
        run = folder / f"run-{done['trainings']}"
        wait = start(run)
        done["starts"] += 1
        status = None
        if done["kills"] < kills:
            in_save = moments.random() < 0.5
            deadline = time.monotonic() + moments.uniform(0, duration)
            while (status := wait(False)) is None and time.monotonic() < deadline:
                if in_save and _incomplete(run):
                    time.sleep(moments.uniform(0, 0.02))
                    break
                time.sleep(0.001)
        if status is None and done["kills"] < kills:
            done["kills_during_saves"] += bool(_incomplete(run))
            wait.kill()  # type: ignore[attr-defined]
            done["kills"] += 1
            wait(True)
            continue
        if (status if status is not None else wait(True)) != 0:
            raise SystemExit(f"{run}: a start failed (see {run}.log)")
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
    assert [line["step"] for line in _lines(run / "metrics.jsonl")] == list(range(1, 41))


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _incomplete(run: Path) -> list[Path]:
    checkpoints = (run / "checkpoints").glob("checkpoint-*")
    return [checkpoint for checkpoint in checkpoints if not (checkpoint / "complete.json").exists()]


class _fork:
    """A training in a fork of this process: it starts at once, as all is imported."""

    def __init__(self, recipe: Path, data: Path, run: Path):
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            with Path(f"{run}.log").open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                torch.set_num_threads(1)
                tqdm.set_lock(threading.RLock())  # tqdm's own is shared with forks: a kill may leave it locked
                train_model(load_recipe(str(recipe)), MODEL, data, run)
                code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def __call__(self, block: bool) -> int | None:
        pid, status = os.waitpid(self.pid, 0 if block else os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class _command:
    """A training as people start it."""

    def __init__(self, recipe: Path, data: Path, run: Path):
        arguments = ["train", str(recipe), "--model", MODEL, "--data", str(data), "--out", str(run)]
        with Path(f"{run}.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "limelm", *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def __call__(self, block: bool) -> int | None:
        return self.process.wait() if block else self.process.poll()

    def kill(self) -> None:
        self.process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    print(json.dumps(chaos(options.out, options.kills, options.seed, options.commands)))
