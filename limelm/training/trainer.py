"""A thin Trainer: our parameter groups and order of the data, every group's learning rate, sealed checkpoints."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from limelm.environment import this_process
from limelm.errors import UserError
from limelm.optimization import parameter_groups
from limelm.recipes.recipe import Recipe
from limelm.recipes.subject import Subject
from limelm.recipes.trained_weights import load_trained_weights, save_trained_weights
from limelm.training import checkpoints
from limelm.training.router_statistics import RouterStatistics


class SeededOrder(Sampler[int]):
    """A permutation of the data set that depends on the seed and the epoch alone: the same for every model.

    What would be an incomplete last batch of an epoch is left out, so that every step sees as many tokens.
    """

    def __init__(self, length: int, batch_size: int, seed: int):
        self.length, self.seed, self.epoch = length, seed, 0
        self.used = length - length % batch_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the data loader calls this before each one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.length, generator=generator)[: self.used].tolist())

    def __len__(self) -> int:
        return self.used


class LimeTrainer(Trainer):
    """`transformers.Trainer` with the paper's parameter groups and a data order that no model or machine can change.

    Its checkpoints are complete or do not count.

    Args:
        run: what its checkpoints belong to, from `run_folder.identify`.
        statistics: of the routers, measured at every evaluation.
        subject: what is trained.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: dict[str, Any],
        statistics: RouterStatistics,
        subject: Subject,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.add_callback(statistics)
        self.recipe, self.run, self.statistics, self.subject = recipe, run, statistics, subject
        self.group_learning_rates: dict[str, float] = {}

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        training, model = self.recipe.training, model or self.model
        optimizer = torch.optim.AdamW(
            parameter_groups(
                model, training.learning_rate, self.subject.router_learning_rate(training), training.weight_decay
            ),
            lr=training.learning_rate,
            betas=(training.adam_beta1, training.adam_beta2),
            eps=training.adam_epsilon,
        )
        optimizer.register_step_post_hook(self._note_learning_rates)
        self.optimizer: torch.optim.Optimizer | None = optimizer
        return optimizer

    def _note_learning_rates(self, optimizer, args, kwargs) -> None:
        """Remember the rates of the step just taken: when it is logged, the schedule has moved on."""
        self.group_learning_rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}

    def _get_train_sampler(self, train_dataset=None) -> Sampler[int]:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return SeededOrder(len(dataset), self.recipe.training.batch_size, self.recipe.training.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "learning_rate" in logs:
            logs |= {f"learning_rate/{name}": rate for name, rate in self.group_learning_rates.items()}
        elif "eval_loss" in logs:
            logs |= self.statistics.measure(self.model, self.state)
        super().log(logs, start_time)

    def _save(self, output_dir=None, state_dict=None) -> None:
        if not self.subject.saves_trained_weights_only:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = Path(output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_trained_weights(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        if not self.subject.saves_trained_weights_only:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained_weights(self.model, Path(resume_from_checkpoint))

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self.args.output_dir)
        checkpoint = folder / f"{checkpoints.PREFIX}{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (checkpoint / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # names this machine's paths; nobody reads it
                checkpoints.seal(checkpoint, self.run)
                checkpoints.keep_newest(folder, self.recipe.engine.keep_checkpoints)
        except (OSError, SafetensorError, RuntimeError) as error:  # PyTorch reports a full disk as a RuntimeError
            shutil.rmtree(checkpoint, ignore_errors=True)
            free = shutil.disk_usage(folder).free / 2**20
            raise UserError(
                f"{checkpoint}: cannot be saved ({error}; {free:,.0f} MiB are free there); checkpoints of earlier "
                "steps are untouched, and the same command goes on from the newest"
            ) from error


def training_arguments(recipe: Recipe, name: str, output_dir: Path, report_to: Sequence[str] = ()) -> TrainingArguments:
    """Translate the recipe into the Trainer's arguments, for this process.

    Raises:
        UserError: where the processes cannot share the batch, or cannot shard.
    """
    training, engine = recipe.training, recipe.engine
    micro_batch_size, accumulation = recipe.micro_batches(this_process().num_processes)
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        run_name=name,
        max_steps=training.steps,
        per_device_train_batch_size=micro_batch_size,
        per_device_eval_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": training.min_lr_ratio},
        warmup_steps=training.warmup_steps,
        max_grad_norm=training.max_grad_norm,
        bf16=training.precision == "bf16",
        use_cpu=not on_gpu,
        seed=training.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=training.eval_steps,
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=engine.save_steps,
        report_to=list(report_to) or "none",
        disable_tqdm=False,  # else the Trainer prints every log; run.py puts its own bar in place
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,  # there are none, and looking for them costs time
        dataloader_pin_memory=on_gpu,
        torch_compile=engine.compile,
        **_sharding(recipe, recipe.subjects[name]),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else the Trainer spreads one process over all GPUs that it sees
    return arguments


def _sharding(recipe: Recipe, subject: Subject) -> dict[str, Any]:
    if recipe.engine.sharding == "none":
        return {}
    if not subject.can_be_sharded:
        raise UserError("engine.sharding='fsdp' is for models from scratch; adapt a pretrained model with 'none'")
    if not torch.cuda.is_available() or this_process().num_processes == 1:
        raise UserError(
            "engine.sharding='fsdp' needs several processes with a GPU each: start them with torchrun or accelerate "
            "launch, or use sharding='none'"
        )
    return {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": True}}
