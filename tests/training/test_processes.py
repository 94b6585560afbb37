"""Two processes (gloo) train what one does: the same sequences in every step, and the same losses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transformers
from packaging.version import Version
from safetensors.torch import load_file
from torch.distributed.run import get_args_parser

from limelm.data.dataset import TokenDataset
from limelm.errors import UserError
from limelm.training import load_recipe, read_summary, reproduce, train_model
from limelm.training.trainer import SeededOrder, training_arguments
from tests.recipes import prepared, small_recipe, write_recipe

ROOT = Path(__file__).parents[2]
MODELS = ["llama", "hc", "static", "dynamic", "kv"]
CHANGES = (("steps = 4", "steps = 6"), ("batch_size = 2\nlearning", "batch_size = 8\nlearning"))
needs_resume = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="older Trainers cannot resume on several CPU processes"
)

# How long torchrun waits after SIGTERM before it kills: a busy machine takes longer than its half minute.
KNOWN = {option for action in get_args_parser()._actions for option in action.option_strings}
PATIENCE = ["--shutdown-timeout", "3600"] if "--shutdown-timeout" in KNOWN else []


def torchrun(*arguments, processes: int = 2) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        *PATIENCE,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    return output


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return folder, write_recipe(folder, *CHANGES), prepared(folder / "tokens")


@pytest.fixture(scope="module")
def together(setting):
    """All models, trained by two processes."""
    folder, recipe, data = setting
    finish(torchrun("-m", "tests.training.two_processes", recipe, data, folder / "two", *MODELS))
    return folder / "two"


@pytest.mark.parametrize("name", MODELS)
def test_same_losses_as_one_process(setting, together, tmp_path, name):
    _, _, data = setting
    train_model(small_recipe(tmp_path, *CHANGES), name, data, tmp_path / "one")
    one, two = lines(tmp_path / "one"), lines(together / "seed-1" / name)
    assert [line["step"] for line in two] == list(range(1, 7))
    for alone, shared in zip(one, two, strict=True):
        for key in ("tokens", "loss", "grad_norm", "eval_loss"):
            assert shared.get(key) == (None if key not in alone else pytest.approx(alone[key], rel=2e-5))
    expected = load_file(tmp_path / "one" / "model.safetensors")
    for key, tensor in load_file(together / "seed-1" / name / "model.safetensors").items():
        assert (tensor - expected[key]).abs().max() < 1e-4


def test_processes_write_one_summary_together(setting, together):
    _, file, data = setting
    recipe = load_recipe(str(file))
    assert sorted(recipe.names) == sorted(MODELS)
    assert [entry["name"] for entry in read_summary(together)["trainings"]] == recipe.names
    assert reproduce(recipe, together, MODELS, data) == []


def test_every_step_reads_the_same_sequences_half_in_each_process(setting, together):
    _, _, data = setting
    order = list(SeededOrder(len(TokenDataset(data, "train", 32)), batch_size=8, seed=1))
    read = [json.loads(Path(f"{together}-static-read-{rank}.json").read_text()) for rank in (0, 1)]
    for step in range(6):
        mine = [indices[4 * step : 4 * step + 4] for indices in read]
        assert sorted(mine[0] + mine[1]) == sorted(order[8 * step : 8 * step + 8])


@needs_resume
def test_sigterm_stops_all_processes_after_a_checkpoint_and_they_go_on(setting, tmp_path):
    _, _, data = setting
    long = [
        ("steps = 4", "steps = 9999"),
        ("save_steps = 3", "save_steps = 9999"),
        ("eval_steps = 3", "eval_steps = 9999"),
    ]
    recipe, run = write_recipe(tmp_path, *CHANGES[1:], *long), tmp_path / "run"
    command = ["-m", "limelm", "train", recipe, "--model", "static", "--data", data, "--out", run]
    stopped = 0
    for _ in range(2):
        process = torchrun(*command)
        while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) <= stopped:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
        assert process.returncode != 0 and "with a checkpoint; the same command goes on from there" in output, output[
            -3000:
        ]
        assert len(lines(run)) > stopped
        stopped = len(lines(run))
        assert [line["step"] for line in lines(run)] == list(range(1, stopped + 1))
        assert (run / "checkpoints" / f"checkpoint-{stopped}" / "complete.json").exists()


def test_the_batch_is_shared_evenly_or_refused(tmp_path):
    recipe = small_recipe(tmp_path, *CHANGES)
    assert [recipe.micro_batches(processes) for processes in (1, 2, 4, 8)] == [(2, 4), (2, 2), (2, 1), (1, 1)]
    odd = small_recipe(tmp_path, ("batch_size = 2\nlearning", "batch_size = 9\nlearning"))
    assert odd.micro_batches(1) == (1, 9) and odd.micro_batches(3) == (1, 3)
    for processes in (3, 16):
        with pytest.raises(
            UserError, match=rf"training\.batch_size=8 cannot be shared evenly by {processes} processes"
        ):
            recipe.micro_batches(processes)


def test_sharding_where_it_cannot_be_is_refused(tmp_path):
    recipe = small_recipe(tmp_path, ('sharding = "none"', 'sharding = "fsdp"'))
    with pytest.raises(UserError, match=r"engine\.sharding='fsdp' needs several processes with a GPU each"):
        training_arguments(recipe, "static", tmp_path / "run")
