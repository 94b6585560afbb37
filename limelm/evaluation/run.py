"""Every task on every checkpoint, and what may be concluded."""

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from limelm.environment import environment
from limelm.evaluation.harness import Settings, evaluate_checkpoint
from limelm.evaluation.items import Record
from limelm.evaluation.scores import score_rows
from limelm.evaluation.suites import SuiteTask
from limelm.evaluation.tasks import load_tasks
from limelm.models.checkpoint import load_config


@dataclass
class Evaluation:
    """What came out: facts about the `models`, `facts` on the run, `notes`, `cautions`, and a row per score."""

    models: list[Record] = field(default_factory=list)
    facts: Record = field(default_factory=dict)
    notes: list[Record] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    scores: list[Record] = field(default_factory=list)


def evaluate(
    checkpoints: list[str], labels: list[str], wanted: list[SuiteTask], data: Path | None, settings: Settings, out: Path
) -> Evaluation:
    """Evaluate checkpoints one after the other; each finished task is kept below `out/items` at once.

    Args:
        checkpoints: folders, or names of the Hugging Face hub, of causal language models.
        labels: their names, and their folders' below `out/items`.
        data: a folder of the tasks' files; None for the hub.

    Raises:
        UserError: for bad input, before any model runs.
    """
    for checkpoint in checkpoints:
        load_config(checkpoint)
    tasks = load_tasks(wanted, data, settings.seed)
    evaluation = Evaluation()
    records: dict[str, list[Record]] = {}
    for checkpoint, label in zip(checkpoints, labels, strict=True):
        model, records[label], notes = evaluate_checkpoint(checkpoint, label, tasks, settings, out)
        evaluation.models.append(model)
        evaluation.notes += notes
    evaluation.scores = score_rows(evaluation.models, records, wanted, settings.seed)
    evaluation.facts = _facts(data, settings)
    evaluation.cautions = _cautions(evaluation, [record for own in records.values() for record in own])
    return evaluation


def _facts(data: Path | None, settings: Settings) -> Record:
    return {
        "data": "the Hugging Face hub" if data is None else str(data),
        "limit": "all items" if settings.limit is None else f"the first {settings.limit:,} items of each task",
        "batch size": settings.batch_size,
        "seed": settings.seed,
        "lm-eval": importlib.metadata.version("lm-eval"),
        **environment(),
    }


def _cautions(evaluation: Evaluation, records: list[Record]) -> list[str]:
    """What these scores do not show."""
    cautions = [
        "One checkpoint of each model on a sample of items: the errors and intervals are over items. How much a score "
        "moves from one training seed to the next is not in them, and is often as much."
    ]
    compared = sum(row["verdict"] is not None for row in evaluation.scores)
    if compared:
        cautions.append(
            f"{compared} differences were tested, each with a 95 % interval: were all models equally good, about "
            f"{0.05 * compared:.1f} of them would still be called better or worse."
        )
    trivial = _names(row["task"] for row in evaluation.scores if row["above_trivial"] == "no")
    if trivial:
        cautions.append(
            f"{trivial}: a score that guessing, or always giving the same answer, reaches too. It says nothing of what "
            "the model knows, nor does a difference between two such scores."
        )
    if any(row["task"] == "multirc" for row in evaluation.scores):
        cautions.append(
            "multirc: the harness's definition pairs SuperGLUE's label 0, a wrong answer, with “yes”, in the examples "
            "too. The score is the harness's, as the paper's is; it moves between the two constant answers (42.8 % and "
            "57.2 % of all items)."
        )
    if any(row["task"] == "qnli" for row in evaluation.scores):
        cautions.append(
            "qnli: its sentences are Wikipedia's; a model trained on Wikipedia has read them, without labels."
        )
    shared = _names(record["task"] for record in records if record["examples_are_scored_items"])
    if shared:
        cautions.append(f"{shared}: no training items; the examples in a prompt are other items that are scored too.")
    cut = _names(
        f"{row['task']} ({row['model']}: {row['items_cut']:,})" for row in evaluation.scores if row["items_cut"]
    )
    if cut:
        cautions.append(f"The model's context is too short for some prompts, which lost their beginning: {cut}.")
    return cautions


def _names(names: Iterable[str]) -> str:
    """Each once, in order."""
    return ", ".join(dict.fromkeys(names))
