"""Train one model of a recipe, from the start or from its newest complete checkpoint.

A run's folder holds `run.json` (the resolved recipe, and what decides the result), `checkpoints/`, `metrics.jsonl` (a
line per step), and at the end the model, its tokenizer and `result.json`.
"""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProgressCallback,
)

from limelm.environment import environment, free_memory, peak_flops_together, this_process
from limelm.errors import Stopped, UserError
from limelm.files import lock, write_text
from limelm.models.flops import training_flops_per_token
from limelm.optimization import checkpoint_activations
from limelm.planning.fit import require_memory, step_of
from limelm.planning.peak_memory import measure_step
from limelm.recipes.data import DATA, SequenceDataset
from limelm.recipes.recipe import Recipe
from limelm.training import checkpoints
from limelm.training.callbacks import MetricsLog, ProgressBar, StopOnSignal
from limelm.training.card import training_of_card
from limelm.training.jsonl import METRICS, ROUTERS_LOG, drop_lines_after
from limelm.training.movement import mixing_parameters, movement
from limelm.training.result import TrainingResult, read_result, summarize
from limelm.training.router_statistics import RouterStatistics, routing_summary
from limelm.training.run_folder import LOCK, RUN, identify, read_run, refuse_other_run
from limelm.training.trainer import LimeTrainer, training_arguments

CHECKPOINTS = "checkpoints"
ROUTED_SEQUENCES = 8


def train_model(
    recipe: Recipe, name: str, data: Path | None, folder: Path, report_to: Sequence[str] = ()
) -> TrainingResult:
    """Train one model, or go on with a training that was broken off.

    In every process that torchrun or accelerate started; they share each step's batch.

    Args:
        data: a prepared folder; None prepares the recipe's own text in `folder/data`.
        folder: of the run; made where it is missing.
        report_to: trackers that the Trainer reports to besides `metrics.jsonl`: "tensorboard", "wandb", "trackio".

    Raises:
        UserError: for data or a checkpoint that cannot be used, a folder that holds another run, a loss that is not
            finite, or a checkpoint that cannot be saved. Checkpoints of earlier steps stay.
        Stopped: when a signal asked for it, after a checkpoint.
    """
    check_trackers(report_to)
    free_memory()
    subject = recipe.subjects[name]
    arguments = training_arguments(recipe, name, folder / CHECKPOINTS, report_to)
    recorded = read_run(folder)
    if recorded is not None:  # before its data are prepared
        refuse_other_run(folder, recorded, identify(recipe, name, ""), [("data_sha256",)])
    if read_result(folder) is None and subject.is_trained:
        vocab_size = recipe.data.vocab_size if data is None else recipe.data.describe(data)["vocab_size"]
        require_memory(recipe, name, vocab_size)
    if data is None:
        data = prepare_own_data(recipe, folder / DATA)
    tokenizer, train_set, eval_set = recipe.open_data(data)
    subject.check_tokenizer(tokenizer, data)
    described = recipe.data.describe(data)
    run = identify(recipe, name, described["content_sha256"])
    if recorded is not None:
        refuse_other_run(folder, recorded, run)
    result = read_result(folder)
    if result is not None:
        return result
    routed, peak_memory = _routed_sequences(eval_set), 0
    with _at_work(folder, recipe, run) as checkpoint:
        if checkpoint is None or checkpoints.step_of(checkpoint) < recipe.training.steps:
            model = initial_model(recipe, name, tokenizer)
            start = mixing_parameters(model)
            metrics = MetricsLog(folder / METRICS, recipe.training.batch_size * recipe.data.sequence_length)
            trainer = LimeTrainer(
                recipe,
                run,
                RouterStatistics(folder / ROUTERS_LOG, routed),
                subject,
                model=model,
                args=arguments,
                train_dataset=train_set,
                eval_dataset=eval_set,
                callbacks=[metrics],
            )
            if subject.is_trained:
                peak_memory = _train(trainer, _progress_bar(recipe, name, model), checkpoint)
                checkpoint = checkpoints.newest_complete(folder / CHECKPOINTS)
            else:
                _measure(trainer, folder / METRICS)
        else:
            start = mixing_parameters(initial_model(recipe, name, tokenizer))
        if this_process().is_main_process:
            for split in (train_set, eval_set):
                split.check_unchanged()
            if subject.is_trained and not torch.cuda.is_available():
                peak_memory = _peak_memory(recipe, name, tokenizer)
            _finish(recipe, name, checkpoint, tokenizer, routed, start, described, peak_memory, folder)
    this_process().wait_for_everyone()
    result = read_result(folder)
    assert result is not None
    return result


def prepare_own_data(recipe: Recipe, folder: Path) -> Path:
    """Prepare the recipe's own data in `folder`, or go on with what is there.

    Raises:
        UserError: where it has none, or `folder` holds something else.
    """
    recipe.own_data()
    recipe.data.prepare(folder)
    return folder


def initial_model(recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Build one of the recipe's models as it is before training."""
    model = recipe.subjects[name].build(tokenizer, recipe.training)
    if recipe.engine.activation_checkpointing:
        checkpoint_activations(model)
    return model


@contextmanager
def _at_work(folder: Path, recipe: Recipe, run: dict[str, Any]) -> Iterator[Path | None]:
    """Keep other trainings out of the folder; yields the checkpoint to go on from, if any."""
    process = this_process()
    process.wait_for_everyone()  # until all have seen what was there before
    taken = f"{folder}: another process is training in it right now"
    with lock(folder / LOCK, taken) if process.is_main_process else nullcontext():
        if process.is_main_process:
            checkpoint = checkpoints.newest_complete(folder / CHECKPOINTS)
            if checkpoint is not None:
                checkpoints.check(checkpoint, run)
            _open_run(folder, recipe, run)
        process.wait_for_everyone()
        yield checkpoints.newest_complete(folder / CHECKPOINTS)


def _routed_sequences(eval_set: SequenceDataset) -> Tensor:
    """A few evaluation sequences `[B, T]`, over which dynamic routing weights are averaged."""
    return torch.stack([eval_set[index]["input_ids"] for index in range(min(ROUTED_SEQUENCES, len(eval_set)))])


def check_trackers(report_to: Sequence[str]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        UserError: for the first of them.
    """
    for tracker in report_to:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(f"--report-to {tracker}: not installed; install it with: pip install {tracker}")


def _open_run(folder: Path, recipe: Recipe, run: dict[str, Any]) -> None:
    content = {"run": run, "recipe": recipe.published(), "environment": environment()}
    write_text(folder / RUN, json.dumps(content, indent=2) + "\n")
    checkpoints.discard_incomplete(folder / CHECKPOINTS)
    checkpoints.keep_newest(folder / CHECKPOINTS, recipe.engine.keep_checkpoints)  # what a kill kept from being removed


def _progress_bar(recipe: Recipe, name: str, model: PreTrainedModel) -> ProgressBar:
    length = recipe.data.sequence_length
    subject, precision = recipe.subjects[name], recipe.training.precision
    flops = training_flops_per_token(subject.cost(model.config, length))
    return ProgressBar(
        f"{subject.label}, seed {recipe.training.seed}",
        recipe.training.batch_size * length,
        flops,
        peak_flops_together(precision),
    )


def _train(trainer: LimeTrainer, progress: ProgressBar, checkpoint: Path | None) -> int:
    """Train to the last step; returns the peak of a GPU's allocated bytes, 0 without one."""
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(progress)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with StopOnSignal() as stop:
        trainer.add_callback(stop)
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            progress.close()
    done = trainer.state.global_step
    if stop.received is not None and done < trainer.state.max_steps:
        where = f"after step {done} of {trainer.state.max_steps}, with a checkpoint" if done else "in the first step"
        raise Stopped(f"stopped {where}; the same command goes on from there", stop.received)
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def _measure(trainer: LimeTrainer, metrics: Path) -> None:
    """The held-out loss of a model that is not trained, as the only line of its metrics."""
    trainer.remove_callback(ProgressCallback)
    if this_process().is_main_process:
        drop_lines_after(trainer.statistics.path, -1)  # of a measurement that was killed
    loss = trainer.evaluate()["eval_loss"]
    if this_process().is_main_process:
        write_text(metrics, json.dumps({"step": 0, "tokens": 0, "seconds": 0.0, "eval_loss": loss}) + "\n")


def _finish(
    recipe: Recipe,
    name: str,
    checkpoint: Path | None,
    tokenizer: PreTrainedTokenizerFast,
    routed: Tensor,
    start: dict[str, Tensor],
    described: dict[str, Any],
    peak_memory: int,
    folder: Path,
) -> None:
    """Write the model of the last checkpoint with its card, its tokenizer and the result.

    Args:
        routed: held-out sequences, from `_routed_sequences`.
        start: the connections before training, from `mixing_parameters`.
        described: the data, from `Data.describe`.
        peak_memory: bytes at the peak of a training step in one process; 0 where it is not known.
    """
    subject = recipe.subjects[name]
    if checkpoint is None:
        model = initial_model(recipe, name, tokenizer)
    else:
        model = subject.load(checkpoint, tokenizer, recipe.training)
        model.config.use_cache = True  # the Trainer turns it off
    routing, peak_flops = routing_summary(model.eval(), routed), peak_flops_together(recipe.training.precision)
    moved = movement(model, start)
    result = summarize(recipe, name, model, folder / METRICS, peak_memory, peak_flops, routing, moved)
    try:
        subject.export(model, folder, training_of_card(recipe, name, described, result))
    except SafetensorError as error:  # a full disk, most likely
        raise UserError(f"{folder}: the model cannot be written ({error})") from error
    tokenizer.save_pretrained(folder)
    result.save(folder)


def _peak_memory(recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerFast) -> int:
    """The peak bytes of one process's training step, counted by the tensors alive."""
    model = recipe.subjects[name].build(tokenizer, recipe.training)
    return measure_step(model, step_of(recipe, this_process().num_processes)).peak
