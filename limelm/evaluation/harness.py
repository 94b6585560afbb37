"""Run the harness's tasks on checkpoints: the work behind `limelm eval`, resumable task by task."""

import contextlib
import importlib.metadata
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limelm.evaluation.finite import check_finite
from limelm.evaluation.items import (
    FOLDER,
    data_fingerprint,
    definition_fingerprint,
    file_name,
    items_of,
    read_record,
    write_record,
)
from limelm.evaluation.kept import KeptTask
from limelm.evaluation.loading import LoadedModel
from limelm.evaluation.tasks import LoadedTask, TooLong
from limelm.progress import progress_bar
from limelm.records import Record

DEFAULT_SEED = 1234  # the harness's own, so that examples in prompts are those of its command line


@dataclass(frozen=True)
class TaskSettings:
    """Settings of a run of tasks.

    Attributes:
        limit: score only the first so many items of each task.
        batch_size: prompts per forward; padding moves the last digits, so it is part of a result's identity.
        seed: of the examples in prompts and of the generated tasks.
    """

    limit: int | None = None
    batch_size: int = 16
    seed: int = DEFAULT_SEED
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def run_tasks(
    loaded: LoadedModel, tasks: list[LoadedTask], settings: TaskSettings, out: Path
) -> tuple[list[Record], list[Record]]:
    """Run tasks on one model; tasks that an earlier run of the same finished are not run again.

    Returns:
        A record per task, with its items; a note on each task that could not be run.

    Raises:
        UserError: for scores that are no numbers.
    """
    lm = language_model(loaded.model, loaded.tokenizer, settings.batch_size, loaded.label)
    records, notes = [], []
    for task in tasks:
        identity = loaded.identity | _identity(task, settings)
        path = out / FOLDER / file_name(loaded.label, f"{task.name}-{identity['shots']}-shot")
        record = read_record(path, identity, KeptTask)
        if record is None or not _has_answers(record, task):
            try:
                record = {"identity": identity, **run_task(lm, task, settings, loaded.label)}
            except TooLong as error:
                notes.append({"model": loaded.label, "task": task.name, "reason": str(error)})
                continue
            write_record(path, record)
        records.append(record)
    return records, notes


def _has_answers(record: Record, task: LoadedTask) -> bool:
    """Whether a kept record has the log-likelihoods of right answers, which those of earlier versions may lack."""
    return task.task.OUTPUT_TYPE != "loglikelihood" or "answer_log_likelihood" in record["items"][0]


def language_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, label: str = "the model"
) -> Any:
    """The harness's view of a model: a `limelm.evaluation.language_model.CountingLM`."""
    from limelm.evaluation.language_model import CountingLM

    return CountingLM(model, tokenizer, batch_size, label)


def run_task(lm: Any, task: LoadedTask, settings: TaskSettings, label: str = "model") -> Record:
    """Run one task with the harness: `lm_eval.simple_evaluate` without its survey of the machine.

    Args:
        lm: of `language_model`.

    Returns:
        `task`, `version`, `shots`, the harness's `results`, how many `items_cut` and all `items`.

    Raises:
        TooLong: where the model's context cannot hold an answer.
        UserError: for scores that are no numbers.
    """
    import lm_eval

    task.task.set_config(key="num_fewshot", value=_shots(task))
    task.task.set_fewshot_seed(seed=settings.seed)
    transformers.set_seed(settings.seed)
    with progress_bar(f"{label}: {task.name}", "answer", delay=1) as bar:
        lm.begin(bar)
        with contextlib.redirect_stderr(io.StringIO()):  # the harness's own bars
            # No bootstrap: the intervals are ours.
            results = lm_eval.evaluate(lm, {"tasks": {task.name: task.task}}, limit=settings.limit, bootstrap_iters=0)
    items = items_of(results["samples"][task.name], task.task, lm.cut)
    check_finite((score for item in items for score in item["scores"].values()), label, f"a score on {task.name}")
    return {
        "task": task.name,
        "version": task.task.VERSION,
        "shots": _shots(task),
        "examples_are_scored_items": _shots(task) > 0 and task.examples_split == task.scored_split,
        "results": {key: value for key, value in results["results"][task.name].items() if isinstance(value, float)},
        "items_cut": sum(item["cut"] for item in items),
        "items": items,
    }


def _identity(task: LoadedTask, settings: TaskSettings) -> Record:
    return {
        "limit": settings.limit,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "lm_eval": importlib.metadata.version("lm-eval"),
        "task": task.name,
        "version": task.task.VERSION,
        "shots": _shots(task),
        "definition": definition_fingerprint(task.task),
        "data": data_fingerprint(task.task, settings.limit),
    }


def _shots(task: LoadedTask) -> int:
    """The number of examples in a task's prompt; a task defined without any keeps to that, as in the harness."""
    own = task.task.config.num_fewshot
    return own or 0 if own == 0 or task.wanted.shots is None else task.wanted.shots
