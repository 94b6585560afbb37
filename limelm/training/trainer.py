"""The Trainer, thinly: our parameter groups, our data order, every group's learning rate, and metrics.jsonl."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from limelm.errors import UserError
from limelm.training.parameter_groups import parameter_groups
from limelm.training.recipe import TrainingRecipe


class SeededOrder(Sampler[int]):
    """A permutation of the data set that depends on the seed and the epoch alone: the same for every model.

    What would be an incomplete last batch of an epoch is left out, so that every step sees as many tokens.
    """

    def __init__(self, length: int, batch_size: int, seed: int):
        self.length, self.seed, self.epoch = length, seed, 0
        self.used = length - length % batch_size

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.length, generator=generator)[: self.used].tolist())

    def __len__(self) -> int:
        return self.used


class LimeTrainer(Trainer):
    """`transformers.Trainer` with the paper's parameter groups and a data order that no model can change."""

    def __init__(self, recipe: TrainingRecipe, **kwargs):
        super().__init__(**kwargs)
        self.recipe = recipe
        self.group_learning_rates: dict[str, float] = {}

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(
            parameter_groups(model or self.model, self.recipe),
            lr=self.recipe.learning_rate,
            betas=(self.recipe.adam_beta1, self.recipe.adam_beta2),
            eps=self.recipe.adam_epsilon,
        )
        optimizer.register_step_post_hook(self._note_learning_rates)
        self.optimizer: torch.optim.Optimizer | None = optimizer
        return optimizer

    def _note_learning_rates(self, optimizer, args, kwargs) -> None:
        """Remember the rates of the step just taken; by the time of the log the schedule has moved on."""
        self.group_learning_rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}

    def _get_train_sampler(self, train_dataset=None) -> Sampler[int]:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return SeededOrder(len(dataset), self.recipe.batch_size, self.recipe.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "learning_rate" in logs:
            logs |= {f"learning_rate/{name}": rate for name, rate in self.group_learning_rates.items()}
        super().log(logs, start_time)


class MetricsLog(TrainerCallback):
    """Writes `metrics.jsonl`: a line per step, and one per evaluation.

    `seconds` in a line is the time of the training steps so far, without evaluations.
    """

    def __init__(self, path: Path, tokens_per_step: int):
        self.path, self.tokens_per_step = path, tokens_per_step
        self.step_seconds: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.path.write_text("", encoding="utf-8")

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.step_seconds.append(time.perf_counter() - self.step_start)

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = {
            "step": state.global_step,
            "tokens": state.global_step * self.tokens_per_step,
            "seconds": sum(self.step_seconds),
        }
        if "loss" in logs:
            rates = {key.split("/")[1]: rate for key, rate in logs.items() if key.startswith("learning_rate/")}
            line |= {"loss": logs["loss"], "grad_norm": logs["grad_norm"], "learning_rate": rates}
        elif "eval_loss" in logs:
            line |= {"eval_loss": logs["eval_loss"]}
        else:  # the Trainer's own closing summary
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        loss = logs.get("loss", logs.get("eval_loss"))
        if not math.isfinite(loss):
            raise UserError(f"training diverged: the loss is {loss} at step {state.global_step}; see {self.path}")


class ProgressBar(ProgressCallback):
    """One bar per model, with its latest losses."""

    def __init__(self, label: str):
        super().__init__()
        self.label = label
        self.latest: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.training_bar = tqdm(total=state.max_steps, desc=f"{self.label:>22}", unit="step", dynamic_ncols=True)
        self.current_step = 0

    def close(self) -> None:
        """End the bar's line, also where training was broken off."""
        if self.training_bar is not None:
            self.training_bar.close()

    def on_prediction_step(self, args, state, control, **kwargs):
        """No second bar for the short evaluations."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.latest |= {key: f"{logs[key]:.3f}" for key in ("loss", "eval_loss") if key in logs}
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.latest)


def training_arguments(recipe: TrainingRecipe, output_dir: Path) -> TrainingArguments:
    """The recipe in the Trainer's words."""
    return TrainingArguments(
        output_dir=str(output_dir),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": recipe.min_lr_ratio},
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        prediction_loss_only=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=False,  # else the Trainer prints every log; run.py puts its own bar in place
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
