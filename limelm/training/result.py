"""Results: `result.json` of a training, and `summary.json` of a run.

A training writes its result last, so that it says that everything else is there.
"""

import hashlib
import json
import math
import re
import statistics
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from transformers import PreTrainedModel

from limelm.environment import environment
from limelm.errors import UserError
from limelm.files import write_text
from limelm.loading import RESULT
from limelm.models.flops import training_flops_per_token
from limelm.provenance import provenance
from limelm.recipes.recipe import Recipe
from limelm.records import (
    Check,
    Count,
    FileName,
    Label,
    NotNegative,
    Positive,
    PositiveFloat,
    Unrestricted,
    at_least,
    build,
    load_json,
    read_json,
)
from limelm.training.jsonl import LayerStatistics, PruningTotals, read_lines

SUMMARY = "summary.json"
OF_THE_MOMENT = ("environment", "provenance")  # says when and where it was written, not what came out
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
        eval_loss: mean over the whole validation split.
        seconds: of the training steps alone, without evaluations and saves.
        tokens_per_second: of the median step.
        mfu: model FLOPs utilization of the median step: training FLOPs over the devices' peak; None where unknown.
        peak_memory_bytes: of training, in one process; by the allocator on CUDA (evaluations included), elsewhere by
            the tensors alive in a training step.
        routing: see `limelm.training.router_statistics.routing_summary`; None for a model that does not route.
        environment: where it was trained; speed and memory depend on it.
        trainable_parameters: of a model that started from a pretrained one, how many were trained.
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

    def save(self, folder: Path) -> None:
        """Write `result.json`."""
        write_text(folder / RESULT, json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class TrainingSummary(TrainingResult):
    """One training of a run: its seed, its `result.json`, and its folder as it was written."""

    seed: Count = field(kw_only=True)
    checkpoint: str = field(kw_only=True)


@dataclass(frozen=True)
class Summary:
    """`summary.json`: see `summarize_run`."""

    name: str
    recipe: dict[str, Any]
    data: dict[str, str | int]
    environment: dict[str, str | int]
    provenance: dict[str, str | None]
    seeds: tuple[Count, ...]
    trainings: Annotated[tuple[TrainingSummary, ...], Check(len, "one training or more")]
    base: str | None = None

    def __post_init__(self) -> None:
        places = [(training.seed, training.name) for training in self.trainings]
        if len(set(places)) < len(places) or tuple(sorted({seed for seed, _ in places})) != self.seeds:
            raise ValueError("seeds and trainings do not belong together")


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
    )


def training_folder(seed: int, name: str) -> str:
    """The folder of one training in that of its run."""
    return f"seed-{seed}/{name}"


def find_results(recipe: Recipe, out: Path) -> dict[tuple[int, str], TrainingResult]:
    """Read all results in a run's folder, by seed and name: of the recipe's models, whatever their seeds.

    Raises:
        UserError: for a file that is broken.
    """
    seeds = sorted(
        int(match[1])
        for match in (re.fullmatch(r"seed-(0|[1-9]\d{0,9})", path.name) for path in out.glob("seed-*"))
        if match
    )
    results = {(seed, name): read_result(out / training_folder(seed, name)) for seed in seeds for name in recipe.models}
    return {place: result for place, result in results.items() if result is not None}


def summarize_run(recipe: Recipe, out: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Make the content of `summary.json` from the results in the folder.

    Args:
        described: the data, from `describe_data`.

    Returns:
        `name` and `recipe` (all that decides the result), `base` (of a pretrained model), `data`, `environment`,
        `provenance` (see `limelm.provenance.provenance`), `seeds`, and `trainings`: the `seed` of each, its
        `result.json`, and its `checkpoint` relative to the run's folder.
    """
    trainings = [
        {
            "seed": seed,
            **asdict(result),
            "label": recipe.subjects[name].label,
            "checkpoint": training_folder(seed, name),
        }
        for (seed, name), result in find_results(recipe, out).items()
    ]
    values = recipe.published()
    return {
        "name": recipe.name,
        **({} if recipe.base is None else {"base": values["base"]}),
        "recipe": {key: values[key] for key in ("architecture", "models", "data", "training")},
        "data": {"sequence_length": recipe.data.sequence_length, **described},
        "environment": environment(),
        "provenance": provenance(),
        "seeds": list(dict.fromkeys(training["seed"] for training in trainings)),
        "trainings": trainings,
    }


def is_up_to_date(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether `summary.json` holds all results in the folder, and no others."""
    try:
        written = _read_summary(out)
    except UserError:
        return False
    return _lasting(written) == _lasting(wanted)


def read_summary(out: Path) -> dict[str, Any]:
    """Read a run's summary, with each training's `checkpoint` as a path, and the summary's own `fingerprint`.

    Raises:
        UserError: where it is missing, broken, or made by an earlier version.
    """
    summary = _read_summary(out)
    for training in summary["trainings"]:
        training["checkpoint"] = str(out / training_folder(training["seed"], training["name"]))
    return {**summary, "fingerprint": hashlib.sha256((out / SUMMARY).read_bytes()).hexdigest()}


def _read_summary(out: Path) -> dict[str, Any]:
    path = out / SUMMARY
    content: dict[str, Any] = load_json(path)
    if isinstance(content, dict) and "trainings" not in content and "models" in content:
        raise UserError(f"{path}: made by an earlier version; reproduce the run in a new folder")
    build(Summary, content, str(path))
    return content


def _lasting(summary: dict[str, Any]) -> str:
    """The lasting part of a summary, as text, because NaN is not equal to itself."""
    return json.dumps({key: value for key, value in summary.items() if key not in OF_THE_MOMENT}, sort_keys=True)
