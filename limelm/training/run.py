"""Train one model of a recipe from scratch."""

import json
import math
import shutil
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProgressCallback,
    set_seed,
)

from limelm.data import TokenDataset, load_prepared_tokenizer
from limelm.environment import environment
from limelm.errors import UserError
from limelm.models.flops import model_cost
from limelm.training.memory import peak_training_memory
from limelm.training.recipe import Recipe
from limelm.training.trainer import LimeTrainer, MetricsLog, ProgressBar, training_arguments

RESULT, METRICS = "result.json", "metrics.jsonl"
FINAL_LOSS_STEPS = 10


@dataclass(frozen=True)
class TrainingResult:
    """What `summary.json` says of one model.

    Attributes:
        flops_per_token_forward, paper_flops_per_token_forward: see `limelm.models.flops.ModelCost`.
        final_train_loss: mean over the last ten steps, in nats per token.
        eval_loss: mean over the whole held-out split.
        seconds: of the training steps alone, without evaluations.
        tokens_per_second: of the median step.
        peak_memory_bytes: of training; by the allocator on CUDA (evaluations included), elsewhere by the tensors alive
            in a training step.
        environment: where it was trained; speed and memory depend on it.
    """

    name: str
    label: str
    model_type: str
    parameters: int
    flops_per_token_forward: float
    paper_flops_per_token_forward: float
    train_tokens: int
    final_train_loss: float
    eval_loss: float
    eval_perplexity: float
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    environment: dict[str, str | int]


def initial_model(recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The untrained model. Parameters that it shares with LLaMA by name and shape start at LLaMA's values, so that the
    models differ in what sets them apart and not in their luck."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    set_seed(recipe.training.seed)
    model = AutoModelForCausalLM.from_config(recipe.model_config(name, len(tokenizer), **ids))
    set_seed(recipe.training.seed)
    baseline = AutoModelForCausalLM.from_config(recipe.baseline_config(len(tokenizer), **ids)).state_dict()
    own = model.state_dict()
    shared = {key: value for key, value in baseline.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(shared, strict=False)
    model.generation_config = GenerationConfig(**ids, pad_token_id=tokenizer.eos_token_id)
    return model


def train_model(recipe: Recipe, name: str, data: Path, folder: Path) -> TrainingResult:
    """Train one model and leave checkpoint, tokenizer, `metrics.jsonl` and `result.json` in the new folder `folder`.

    The folder appears when all is done; an interrupted training leaves none.

    Raises:
        UserError: for data that cannot be read, or a loss that is not finite.
    """
    tokenizer = load_prepared_tokenizer(data)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    trainer, metrics = _make_trainer(recipe, name, data, partial, tokenizer)
    partial.mkdir(parents=True, exist_ok=True)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        _train(trainer, recipe.label(name))
        peak_memory = torch.cuda.max_memory_allocated()
    else:
        untrained = initial_model(recipe, name, tokenizer)
        peak_memory = peak_training_memory(untrained, recipe.training.batch_size, recipe.data.sequence_length)
        _train(trainer, recipe.label(name))
    result = _result(recipe, name, trainer.model, metrics, peak_memory)
    trainer.model.config.use_cache = True  # the Trainer turns it off
    try:
        trainer.model.save_pretrained(partial)
    except SafetensorError as error:  # a full disk, most likely
        raise UserError(f"{partial}: cannot be written ({error})") from error
    tokenizer.save_pretrained(partial)
    (partial / RESULT).write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    partial.rename(folder)
    return result


def read_result(folder: Path) -> TrainingResult | None:
    """The result of a finished training, or None where `folder` holds none.

    Raises:
        UserError: where the file is broken.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return TrainingResult(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: broken ({error}); remove {folder} to train this model again") from error


def _make_trainer(
    recipe: Recipe, name: str, data: Path, folder: Path, tokenizer: PreTrainedTokenizerFast
) -> tuple[LimeTrainer, MetricsLog]:
    length = recipe.data.sequence_length
    metrics = MetricsLog(folder / METRICS, tokens_per_step=recipe.training.batch_size * length)
    trainer = LimeTrainer(
        recipe.training,
        model=initial_model(recipe, name, tokenizer),
        args=training_arguments(recipe.training, folder),
        train_dataset=TokenDataset(data, "train", length),
        eval_dataset=TokenDataset(data, "validation", length),
        callbacks=[metrics],
    )
    return trainer, metrics


def _train(trainer: LimeTrainer, label: str) -> None:
    progress = ProgressBar(label)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(progress)
    try:
        trainer.train()
    finally:
        progress.close()


def _result(recipe: Recipe, name: str, model: PreTrainedModel, metrics: MetricsLog, peak_memory: int) -> TrainingResult:
    length = recipe.data.sequence_length
    tokens_per_step = recipe.training.batch_size * length
    cost = model_cost(model.config, length)
    lines = [json.loads(line) for line in metrics.path.read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line][-FINAL_LOSS_STEPS:]
    eval_loss = [line["eval_loss"] for line in lines if "eval_loss" in line][-1]  # of the last step
    return TrainingResult(
        name=name,
        label=recipe.label(name),
        model_type=model.config.model_type,
        parameters=cost.parameters,
        flops_per_token_forward=cost.forward_flops / length,
        paper_flops_per_token_forward=cost.paper_forward_flops / length,
        train_tokens=recipe.training.steps * tokens_per_step,
        final_train_loss=sum(losses) / len(losses),
        eval_loss=eval_loss,
        eval_perplexity=math.exp(eval_loss),
        seconds=sum(metrics.step_seconds),
        tokens_per_second=tokens_per_step / statistics.median(metrics.step_seconds),
        peak_memory_bytes=peak_memory,
        environment=environment(),
    )
