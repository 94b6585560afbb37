"""What watches a training: the progress bar, trackers, and the line that each step leaves."""

import io
import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from limelm.errors import UserError
from limelm.training import train_model
from limelm.training.callbacks import MetricsLog, ProgressBar, StopOnSignal
from tests.recipes import prepared, small_recipe


def state(step: int):
    return SimpleNamespace(global_step=step, max_steps=10, is_world_process_zero=True)


def control(evaluates: bool = False):
    return SimpleNamespace(should_evaluate=evaluates)


def test_the_bar_shows_losses_speed_and_utilization(monkeypatch):
    clock = iter([100.0, 100.5])
    monkeypatch.setattr("limelm.training.callbacks.time.perf_counter", lambda: next(clock))
    bar = ProgressBar("LIMe", tokens_per_step=1000, flops_per_token=2e9, peak_flops=8e12)
    bar.on_train_begin(None, state(3), control())
    bar.training_bar.fp = io.StringIO()
    bar.on_step_begin(None, state(3), control())
    bar.on_log(None, state(4), control(), logs={"loss": 2.5})
    bar.on_log(None, state(4), control(), logs={"eval_loss": 2.25})
    assert bar.latest == {"loss": "2.500", "tokens/s": "2,000", "MFU": "50.0%", "eval_loss": "2.250"}
    assert (bar.training_bar.n, bar.training_bar.total) == (3, 10)
    bar.close()


def test_the_time_that_is_left_shows_from_the_first_forward_on():
    bar = ProgressBar("LIMe", tokens_per_step=1000, flops_per_token=2e9, peak_flops=None)
    bar.on_train_begin(None, state(3), control())
    shown = bar.training_bar.format_dict
    assert "3/10" in bar.training_bar.format_meter(**shown) and "?" in bar.training_bar.format_meter(**shown)
    bar.on_step_begin(None, state(3), control())
    for forwards in (1, 2, 3):
        bar.on_substep_end(SimpleNamespace(gradient_accumulation_steps=4), state(3), control())
        assert bar.training_bar.n == pytest.approx(3 + forwards / 4)
        line = bar.training_bar.format_meter(**{**bar.training_bar.format_dict, "elapsed": 6.0})
        left = 6.0 / (forwards / 4) * (7 - forwards / 4)  # as long for each forward as for those that are done
        assert "| 3/10 [" in line and f"<{bar.training_bar.format_interval(left)}," in line
    bar.on_step_end(None, state(4), control())
    assert bar.training_bar.n == 4
    bar.close()


def test_utilization_is_left_out_where_the_peak_is_unknown():
    bar = ProgressBar("LIMe", tokens_per_step=1000, flops_per_token=2e9, peak_flops=None)
    bar.on_train_begin(None, state(0), control())
    bar.on_step_begin(None, state(0), control())
    bar.on_log(None, state(1), control(), logs={"loss": 2.5})
    assert bar.latest.keys() == {"loss", "tokens/s"}
    bar.close()


@pytest.mark.parametrize("key", ["loss", "grad_norm", "eval_loss"])
def test_what_is_not_finite_is_written_and_ends_the_training(tmp_path, key):
    log = MetricsLog(tmp_path / "metrics.jsonl", tokens_per_step=8)
    log.on_train_begin(None, state(0), control())
    values = {"loss": 1.0, "grad_norm": 1.0, "eval_loss": 1.0} | {key: float("nan")}
    with pytest.raises(UserError, match=f"training diverged: the {key} is nan at step 1"):
        log.on_log(None, state(1), control(True), logs={k: v for k, v in values.items() if k != "eval_loss"})
        log.on_log(None, state(1), control(True), logs={"eval_loss": values["eval_loss"]})
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]


def test_a_tracker_gets_the_losses_every_rate_and_the_routers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe, data = small_recipe(tmp_path), prepared(tmp_path / "tokens")
    train_model(recipe, "static", data, tmp_path / "run", report_to=["tensorboard"])
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    scalars = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    assert {"train/loss", "eval/loss", "train/learning_rate/router"} <= set(scalars)
    assert any("router/entropy/layer_02" in name for name in scalars)


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--report-to wandb: not installed; install it with: pip install wandb"):
        train_model(small_recipe(tmp_path), "static", prepared(tmp_path / "tokens"), tmp_path / "run", ["wandb"])
    assert not (tmp_path / "run").exists()


def test_a_signal_that_comes_while_processes_agree_stops_them_after_the_next_step(monkeypatch):
    """This process has already said that it goes on when the signal comes: it is not to be forgotten."""
    monkeypatch.setattr("limelm.training.callbacks.this_process", lambda: SimpleNamespace(num_processes=2))
    signals = iter([signal.SIGTERM])

    def all_reduce(tensor, operation):
        for number in signals:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    arguments = SimpleNamespace(device="cpu")
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    with StopOnSignal() as stop:
        stop.on_step_end(arguments, state(1), control)
        assert not control.should_training_stop
        stop.on_step_end(arguments, state(2), control)
    assert stop.received == signal.SIGTERM and control.should_save and control.should_training_stop
