"""Callbacks of a training: metrics.jsonl, the progress bar, and signals that ask it to stop."""

import math
import signal
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback

from limelm.environment import this_process
from limelm.errors import UserError
from limelm.progress import progress_bar
from limelm.training import checkpoints
from limelm.training.jsonl import append_line, drop_lines_after
from limelm.training.places import Diverged, Divergence


class MetricsLog(TrainerCallback):
    """Writes `metrics.jsonl`: exactly one line per step, with the held-out loss where it was measured.

    `seconds` in a line is the time of the training steps so far, without evaluations, saves and the loading of batches,
    which the Trainer does before a step begins. A training that goes on from a checkpoint drops the lines of later
    steps, and takes up the time at its own.
    """

    def __init__(self, path: Path, tokens_per_step: int):
        self.path, self.tokens_per_step = path, tokens_per_step
        self.seconds = 0.0
        self._line: dict[str, Any] | None = None  # of a step whose evaluation is not done

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            there = drop_lines_after(self.path, state.global_step)
            self.seconds = there[-1]["seconds"] if there else 0.0
            if [line["step"] for line in there] != list(range(1, state.global_step + 1)):
                raise UserError(
                    f"{self.path}: does not have one line for each of the {state.global_step} steps up to the "
                    "checkpoint; remove that checkpoint to go on from an earlier one, or the folder to begin anew"
                )

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self.step_start

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            rates = {key.split("/")[1]: rate for key, rate in logs.items() if key.startswith("learning_rate/")}
            self._line = {
                "step": state.global_step,
                "tokens": state.global_step * self.tokens_per_step,
                "seconds": self.seconds,
                "loss": logs["loss"],
                "grad_norm": logs["grad_norm"],
                "learning_rate": rates,
            }
        elif "eval_loss" in logs and self._line is not None:
            self._line["eval_loss"] = logs["eval_loss"]
        else:  # the Trainer's own closing summary
            return
        line = self._line
        broken = next((key for key in ("loss", "grad_norm", "eval_loss") if not math.isfinite(line.get(key, 0))), None)
        if broken or "eval_loss" in logs or not control.should_evaluate:
            self._line = None
            if state.is_world_process_zero:
                append_line(self.path, line)
        if broken:
            raise Diverged(
                f"training diverged: the {broken} is {line[broken]} at step {state.global_step}; see {self.path}. "
                "A lower learning rate may help; checkpoints of earlier steps are untouched",
                Divergence(state.global_step, broken),
            )


class StepBar(tqdm):
    """A bar that counts parts of steps, to estimate the time left, and shows whole steps."""

    @property
    def format_dict(self) -> dict[str, Any]:
        shown = dict(super().format_dict)
        return {**shown, "steps": int(shown["n"] + 1e-6)}


class ProgressBar(ProgressCallback):
    """One bar per model: steps, time left, latest losses, tokens per second, and model FLOPs utilization.

    Args:
        flops_per_token: of training.
        peak_flops: of all the devices together, per second; None, where it is not known, leaves the utilization out.
    """

    def __init__(self, label: str, tokens_per_step: int, flops_per_token: float, peak_flops: float | None):
        super().__init__()
        self.label, self.tokens_per_step = label, tokens_per_step
        self.utilization_per_token = flops_per_token / peak_flops if peak_flops else None
        self.latest: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.training_bar = progress_bar(
                f"{self.label:>22}",
                "step",
                total=state.max_steps,
                stays=True,
                kind=StepBar,
                initial=state.global_step,
                bar_format="{l_bar}{bar}| {steps}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
            )

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_start = time.perf_counter()
        self.forwards = 0

    def on_substep_end(self, args, state, control, **kwargs):
        """Count a part of a step, so that the time left is shown from the first part on."""
        self.forwards += 1
        self._move_to(state.global_step + self.forwards / args.gradient_accumulation_steps)

    def on_step_end(self, args, state, control, **kwargs):
        self._move_to(state.global_step)

    def _move_to(self, step: float) -> None:
        if self.training_bar is not None:
            self.training_bar.update(step - self.training_bar.n)

    def close(self) -> None:
        """End the bar's line, also where training was broken off."""
        if self.training_bar is not None:
            self.training_bar.close()

    def on_prediction_step(self, args, state, control, **kwargs):
        """Do nothing: the short evaluations have no bar of their own."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None:
            return
        self.latest |= {key: f"{logs[key]:.3f}" for key in ("loss", "eval_loss") if key in logs}
        if "loss" in logs:  # the step's time, as its loss is on the host by now
            speed = self.tokens_per_step / (time.perf_counter() - self.step_start)
            self.latest["tokens/s"] = f"{speed:,.0f}"
            if self.utilization_per_token is not None:
                self.latest["MFU"] = f"{speed * self.utilization_per_token:.1%}"
        self.training_bar.set_postfix(self.latest)


class StopOnSignal(TrainerCallback):
    """Ends the training after the forward in which SIGTERM or Ctrl-C came, with a checkpoint of the last whole step.

    Half a step leaves nothing: neither weights nor the optimizer have changed, and the random numbers are put back.
    Among several processes the running step is ended first, as they have to agree.

    A context manager: signals mean this between entry and exit. A second Ctrl-C interrupts at once.

    Attributes:
        received: the signal's number, or None.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopOnSignal":
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def on_step_begin(self, args, state, control, **kwargs):
        self._random = (torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)

    def on_substep_end(self, args, state, control, **kwargs):
        if self.received is None or this_process().num_processes > 1:
            return
        on_cpu, on_cuda = self._random
        torch.set_rng_state(on_cpu)
        if on_cuda is not None:
            torch.cuda.set_rng_state(on_cuda)
        saved = Path(args.output_dir, f"{checkpoints.PREFIX}{state.global_step}", checkpoints.COMPLETE).exists()
        control.should_save = state.global_step > 0 and not saved
        control.should_training_stop = True

    def on_step_end(self, args, state, control, **kwargs):
        if this_process().num_processes > 1:  # all of them stop after the same step
            agreed = torch.tensor(self.received or 0, device=args.device)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
            if not agreed:
                return  # a signal that came while the processes agreed stops them after the next step
            self.received = int(agreed)
        if self.received is not None:
            control.should_save = control.should_training_stop = True
