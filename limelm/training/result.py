"""Results: `result.json` of a training, which it writes last, so that it says that everything else was there."""

import json
import math
import statistics
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from transformers import PreTrainedModel

from limelm.environment import environment
from limelm.errors import UserError
from limelm.files import write_text
from limelm.loading import RESULT
from limelm.models.flops import training_flops_per_token
from limelm.recipes.recipe import Recipe
from limelm.records import (
    Count,
    FileName,
    Label,
    NotNegative,
    Positive,
    PositiveFloat,
    Records,
    Unrestricted,
    at_least,
    build,
    read_json,
)
from limelm.training.jsonl import LayerStatistics, PruningTotals, read_lines
from limelm.training.movement import Movement

FINAL_LOSS_STEPS = 10
LARGEST_EXPONENT = 709.0  # of a float


@dataclass(frozen=True)
class Curve:
    """One curve of Figure 9: the mean `weight` by `source`, or by `layer`."""

    weight: tuple[float, ...]
    source: tuple[Count, ...] | None = None
    layer: tuple[Count, ...] | None = None


@dataclass(frozen=True)
class Routing(PruningTotals):
    """The routers at the end of a training: see `limelm.training.router_statistics.routing_summary`."""

    top_p: float | None
    heads: Count
    num_layers: Count
    layers: tuple[LayerStatistics, ...]
    mean_retrieval: Curve
    self_retrieval: Curve


@dataclass(frozen=True)
class TrainingResult:
    """The result of one training.

    Attributes:
        flops_per_token_forward, paper_flops_per_token_forward: see `limelm.models.flops.ModelCost`.
        final_train_loss: mean over the last ten steps, in nats per token.
        eval_loss: mean over the whole validation split: of each batch's mean per token, weighted by its sequences.
            Problems have different numbers of tokens, so that there it depends on the micro-batch, too.
        seconds: of the training steps alone, without evaluations, saves and the loading of batches.
        tokens_per_second: of the median step.
        mfu: model FLOPs utilization of the median step: training FLOPs over the devices' peak; None where unknown.
        peak_memory_bytes: of training, in one process; by the allocator on CUDA (evaluations included), elsewhere by
            the tensors alive in a training step.
        routing: see `limelm.training.router_statistics.routing_summary`; None for a model that does not route.
        environment: where it was trained; speed and memory depend on it.
        trainable_parameters: of a model that started from a pretrained one, how many were trained.
        movement: of the parameters of connections over depth; None in results of earlier versions.
    """

    name: FileName
    label: Label
    model_type: str
    parameters: Positive
    flops_per_token_forward: PositiveFloat
    paper_flops_per_token_forward: PositiveFloat
    train_tokens: Count
    final_train_loss: NotNegative | None
    eval_loss: NotNegative
    eval_perplexity: Annotated[float, Unrestricted, at_least(0)]
    seconds: NotNegative
    tokens_per_second: NotNegative
    mfu: NotNegative | None
    peak_memory_bytes: Count
    routing: Routing | None
    environment: dict[str, str | int]
    trainable_parameters: Count | None = None
    movement: tuple[Movement, ...] | None = None

    def save(self, folder: Path) -> None:
        """Write `result.json`."""
        write_text(folder / RESULT, json.dumps(asdict(self), indent=2) + "\n")


def read_result(folder: Path) -> TrainingResult | None:
    """Read the result of a finished training; None if `folder` holds none.

    Raises:
        UserError: where the file is broken.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return read_json(path, TrainingResult)
    except UserError as error:
        raise UserError(f"{error}; remove {folder} to train this model again") from error


def summarize(
    recipe: Recipe,
    name: str,
    model: PreTrainedModel,
    metrics: Path,
    peak_memory_bytes: int,
    peak_flops: float | None,
    routing: dict[str, Any] | None,
    movement: Records,
) -> TrainingResult:
    """Summarize a training that took all of its steps, or a model that takes none, from its `metrics.jsonl`.

    Args:
        peak_flops: of all the devices together, per second.
    """
    length = recipe.data.sequence_length
    subject = recipe.subjects[name]
    cost = subject.cost(model.config, length)
    lines = read_lines(metrics)
    if not lines or lines[-1].get("eval_loss") is None:
        raise UserError(f"{metrics}: does not end with the last step and its eval_loss; remove {metrics.parent}")
    losses = [line["loss"] for line in lines[-FINAL_LOSS_STEPS:] if "loss" in line]
    eval_loss = lines[-1]["eval_loss"]
    step_seconds = [later - sooner for sooner, later in pairwise([0.0, *(line["seconds"] for line in lines)])]
    tokens_per_second = recipe.training.batch_size * length / statistics.median(step_seconds) if losses else 0.0
    return TrainingResult(
        name=name,
        label=subject.label,
        model_type=model.config.model_type,
        parameters=cost.parameters,
        flops_per_token_forward=cost.forward_flops / length,
        paper_flops_per_token_forward=cost.paper_forward_flops / length,
        train_tokens=lines[-1]["tokens"],
        final_train_loss=sum(losses) / len(losses) if losses else None,
        eval_loss=eval_loss,
        eval_perplexity=math.exp(eval_loss) if eval_loss < LARGEST_EXPONENT else math.inf,
        seconds=lines[-1]["seconds"],
        tokens_per_second=tokens_per_second,
        mfu=tokens_per_second * training_flops_per_token(cost) / peak_flops if peak_flops else None,
        peak_memory_bytes=peak_memory_bytes,
        routing=None if routing is None else build(Routing, routing, "routing"),
        environment=environment(),
        trainable_parameters=subject.trainable_parameters(model),
        movement=build(tuple[Movement, ...], movement, "movement"),
    )
