"""A training that is broken off, however, ends where one that was left alone does, or says why it cannot."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves
from transformers import Trainer

from limelm.data.dataset import TokenDataset
from limelm.errors import Stopped, UserError
from limelm.files import lock
from limelm.training import train_model
from limelm.training.checkpoints import newest_complete
from tests.recipes import corpus, prepared, small_recipe

STEPS = (("steps = 4", "steps = 8"), ("batch_size = 2\nlearning", "batch_size = 4\nlearning"))


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A recipe and its data: 8 steps of two micro-batches, checkpoints at 3, 6 and 8, evaluations too."""
    folder = tmp_path_factory.mktemp("resume")
    return small_recipe(folder, *STEPS), prepared(folder / "tokens")


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    """Trainings that nothing disturbed, by model."""
    recipe, data = setting
    folder = tmp_path_factory.mktemp("whole")
    runs: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in runs:
            train_model(recipe, name, data, folder / name)
            runs[name] = folder / name
        return runs[name]

    return run


@pytest.fixture
def signalled(monkeypatch):
    """Makes this process receive a signal while it reads its n-th training sequence."""

    def arm(number: int, at: int) -> None:
        original, count = TokenDataset.__getitem__, 0

        def getitem(self, index):
            nonlocal count
            count += self.split == "train"
            if count == at and self.split == "train":
                os.kill(os.getpid(), number)
            return original(self, index)

        monkeypatch.setattr(TokenDataset, "__getitem__", getitem)

    return arm


@pytest.fixture
def broken_off(setting, signalled, tmp_path):
    """A run that stopped after step 4, and so has the checkpoints 3 and 4."""
    recipe, data = setting
    signalled(signal.SIGTERM, at=19)  # of 4 a step, and one micro-batch ahead
    with pytest.raises(Stopped):
        train_model(recipe, "static", data, tmp_path / "run")
    return recipe, data, tmp_path / "run"


def losses(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") > 0
    return lines


def assert_same(run: Path, whole: Path) -> None:
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert losses(run) == losses(whole)
    states = [torch.load(side / "checkpoints/checkpoint-8/optimizer.pt", weights_only=True) for side in (run, whole)]
    for one, other in zip(*(tree_leaves(state) for state in states), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, whole)]
    for key in ("eval_loss", "final_train_loss", "train_tokens", "parameters"):
        assert results[0][key] == results[1][key]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["llama", "hc", "static", "dynamic", "kv"])
def test_resumed_is_uninterrupted_bit_for_bit(setting, whole, signalled, tmp_path, name):
    recipe, data = setting
    signalled(signal.SIGTERM, at=19)
    with pytest.raises(Stopped, match=r"stopped after step 4 of 8, with a checkpoint") as stop:
        train_model(recipe, name, data, tmp_path / "run")
    assert stop.value.signal_number == signal.SIGTERM
    assert not (tmp_path / "run" / "result.json").exists()
    train_model(recipe, name, data, tmp_path / "run")
    assert_same(tmp_path / "run", whole(name))


def test_metrics_have_one_line_per_step(whole):
    lines = losses(whole("static"))
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6, 8]


def test_only_so_many_checkpoints_are_kept(whole):
    folder = whole("static") / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-6", "checkpoint-8"]


def test_what_a_kill_left_of_a_save_does_not_count(broken_off, whole):
    recipe, data, run = broken_off
    newest = newest_complete(run / "checkpoints")
    assert newest is not None
    shutil.copytree(newest, run / "checkpoints" / "checkpoint-7")
    (run / "checkpoints" / "checkpoint-7" / "complete.json").unlink()
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "tokens": 1, "loss": 1.0, "seconds": 1}\n{"step": 7, "lo')
    train_model(recipe, "static", data, run)
    assert_same(run, whole("static"))


def test_a_kill_between_training_and_result_loses_nothing(whole, setting, tmp_path):
    recipe, data = setting
    shutil.copytree(whole("static"), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"half")
    train_model(recipe, "static", data, tmp_path / "run")
    assert_same(tmp_path / "run", whole("static"))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth", "config.json"]
)
def test_a_flipped_byte_in_a_checkpoint_is_named(broken_off, name):
    recipe, data, run = broken_off
    newest = newest_complete(run / "checkpoints")
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / name).write_bytes(content)
    before = snapshot(run)
    with pytest.raises(
        UserError, match=rf"{newest.name}/{name}: not what was saved .*; remove .*{newest.name} to go on"
    ):
        train_model(recipe, "static", data, run)
    assert snapshot(run) == before


def test_a_broken_checkpoint_can_be_removed(broken_off, whole):
    recipe, data, run = broken_off
    newest = newest_complete(run / "checkpoints")
    (newest / "optimizer.pt").unlink()
    with pytest.raises(UserError, match=r"optimizer\.pt: missing; remove"):
        train_model(recipe, "static", data, run)
    shutil.rmtree(newest)
    train_model(recipe, "static", data, run)  # from step 3
    assert_same(run, whole("static"))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"files": 3, "run": {}}', '{"files": {"a": 1}, "run": 3}'])
def test_a_broken_seal_is_named(broken_off, content):
    recipe, data, run = broken_off
    newest = newest_complete(run / "checkpoints")
    (newest / "complete.json").write_text(content)
    with pytest.raises(UserError, match=r"complete\.json: .*; remove .* to go on from the one before it"):
        train_model(recipe, "static", data, run)


def test_another_run_is_refused_by_name(broken_off, tmp_path):
    recipe, data, run = broken_off
    before = snapshot(run)
    other = prepared(tmp_path / "other", corpus(31))
    for arguments, message in (
        ((recipe.with_training(learning_rate=2e-3), "static", data), r"training\.learning_rate=0\.001, not 0\.002"),
        ((recipe.with_training(batch_size=2), "static", data), r"training\.batch_size=4, not 2"),
        ((recipe, "kv", data), r"architecture\.routing='static', not 'kv'"),
        ((recipe, "static", other), "data_sha256="),
    ):
        with pytest.raises(UserError, match=f"holds a run with {message}"):
            train_model(*arguments, run)
    assert snapshot(run) == before


def test_a_checkpoint_of_another_run_is_refused(broken_off, setting, tmp_path):
    recipe, data, run = broken_off
    other = tmp_path / "other"
    train_model(recipe.with_training(seed=3), "static", data, other)
    shutil.copytree(other / "checkpoints" / "checkpoint-8", run / "checkpoints" / "checkpoint-8")
    with pytest.raises(UserError, match=r"checkpoint-8: holds a run with training\.seed=3, not 1"):
        train_model(recipe, "static", data, run)


def test_the_engine_may_change(broken_off, whole, tmp_path):
    _, data, run = broken_off
    changes = (*STEPS, ("micro_batch_size = 2", "micro_batch_size = 4"), ("save_steps = 3", "save_steps = 1"))
    train_model(small_recipe(tmp_path, *changes), "static", data, run)
    expected = load_file(whole("static") / "model.safetensors")
    for name, tensor in load_file(run / "model.safetensors").items():
        assert (tensor - expected[name]).abs().max() < 1e-5


def test_a_vanished_or_changed_shard_is_named(broken_off, tmp_path):
    recipe, data, run = broken_off
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    shard = broken / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    before = snapshot(run)
    with pytest.raises(UserError, match=r"train-00000\.bin: its hash is not the manifest's"):
        train_model(recipe, "static", broken, run)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00000\.bin: No such file"):
        train_model(recipe, "static", broken, run)
    assert snapshot(run) == before


@pytest.mark.parametrize("largest_file", [100_000, 250_000], ids=["weights", "optimizer"])
def test_a_full_disk_leaves_the_last_checkpoint(setting, whole, tmp_path, monkeypatch, largest_file):
    recipe, data = setting
    run = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    saves = 0
    original = TokenDataset.__getitem__

    def getitem(self, index):  # full from the second save on
        nonlocal saves
        saves = len(list((run / "checkpoints").glob("checkpoint-3/complete.json")))
        if saves:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(TokenDataset, "__getitem__", getitem)
        try:
            with pytest.raises(UserError, match=r"checkpoint-6: cannot be saved .*checkpoints of earlier steps are"):
                train_model(recipe, "static", data, run)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["checkpoint-3"]
    train_model(recipe, "static", data, run)
    assert_same(run, whole("static"))


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(setting, tmp_path, monkeypatch):
    recipe, data = setting
    original, calls = Trainer.compute_loss, 0

    def compute_loss(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        loss = original(self, *args, **kwargs)
        return loss * float("nan") if calls > 10 and self.model.training else loss

    monkeypatch.setattr(Trainer, "compute_loss", compute_loss)
    with pytest.raises(UserError, match=r"training diverged: the loss is nan at step \d; see .*metrics\.jsonl"):
        train_model(recipe, "static", data, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-3"]


def test_ctrl_c_saves_the_last_whole_step(setting, signalled, tmp_path):
    recipe, data = setting
    before = signal.getsignal(signal.SIGINT)
    signalled(signal.SIGINT, at=8)  # of 4 a step, and one micro-batch ahead
    with pytest.raises(Stopped, match="stopped after step 1 of 8, with a checkpoint") as stop:
        train_model(recipe, "static", data, tmp_path / "run")
    assert stop.value.signal_number == signal.SIGINT
    assert newest_complete(tmp_path / "run" / "checkpoints").name == "checkpoint-1"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def signalled_in(monkeypatch):
    """Makes this process receive a signal while its n-th training forward runs, and counts the forwards."""
    counted = []

    def arm(number: int, at: int) -> list[int]:
        original = Trainer.training_step

        def training_step(self, *args, **kwargs):
            counted.append(self.state.global_step)
            if len(counted) == at:
                signal.raise_signal(number)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Trainer, "training_step", training_step)
        return counted

    return arm


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize(("forward", "whole_steps"), [(7, 3), (9, 4), (10, 5)])
def test_a_signal_does_not_wait_for_the_steps_end(
    setting, whole, signalled_in, tmp_path, monkeypatch, forward, whole_steps, dropout
):
    """A forward is half a step here: the 7th and 9th begin a step, the 10th ends one."""
    recipe, data = setting
    undisturbed = whole("static")
    if dropout:
        recipe = replace(recipe, architecture={**recipe.architecture, "attention_dropout": 0.3})
        train_model(recipe, "static", data, tmp_path / "whole")
        undisturbed = tmp_path / "whole"
    counted = signalled_in(signal.SIGTERM, at=forward)
    with pytest.raises(Stopped, match=f"stopped after step {whole_steps} of 8, with a checkpoint"):
        train_model(recipe, "static", data, tmp_path / "run")
    assert len(counted) == forward
    assert newest_complete(tmp_path / "run" / "checkpoints").name == f"checkpoint-{whole_steps}"
    train_model(recipe, "static", data, tmp_path / "run")
    assert_same(tmp_path / "run", undisturbed)


def test_a_signal_in_the_first_step_leaves_no_half_of_it(setting, whole, signalled_in, tmp_path):
    recipe, data = setting
    signalled_in(signal.SIGINT, at=1)
    with pytest.raises(Stopped, match="stopped in the first step"):
        train_model(recipe, "static", data, tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    train_model(recipe, "static", data, tmp_path / "run")
    assert_same(tmp_path / "run", whole("static"))


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_step_that_is_missing_from_the_metrics_is_named(broken_off, damage):
    recipe, data, run = broken_off
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-20] if damage == "torn" else "")
    with pytest.raises(UserError, match=r"metrics\.jsonl: does not have one line for each of the 4 steps"):
        train_model(recipe, "static", data, run)


def test_two_trainings_in_one_folder_are_refused(setting, broken_off):
    recipe, data, run = broken_off
    with lock(run / ".lock", "nobody"), pytest.raises(UserError, match="another process is training in it right now"):
        train_model(recipe, "static", data, run)


def test_an_unknown_folder_is_left_alone(setting, tmp_path):
    recipe, data = setting
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"thesis: already holds other files \(thesis\.tex\)"):
        train_model(recipe, "static", data, tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_chaos(tmp_path):
    """Twenty kills, each at a certain operation on a file of the run, half of them while a checkpoint is written."""
    command = [sys.executable, "-m", "tests.training.chaos", "--kills", "20", "--out", str(tmp_path / "chaos")]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert finished.returncode == 0, finished.stderr[-2000:]
    done = json.loads(finished.stdout.splitlines()[-1])
    assert (done["kills"], done["kills_during_saves"]) == (20, 10) and done["trainings"] >= 1
