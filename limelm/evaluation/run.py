"""Evaluate every checkpoint on every task and text, and say what may be concluded."""

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from limelm.data.dataset import are_shards
from limelm.environment import environment
from limelm.evaluation.answer_loss import answer_rows
from limelm.evaluation.domains import (
    Reading,
    TextRequest,
    check_text,
    choose_window,
    context_rows,
    perplexity_rows,
    score_domains,
    share_rows,
)
from limelm.evaluation.generated import GENERATED
from limelm.evaluation.harness import TaskSettings, run_tasks
from limelm.evaluation.loading import load_for_evaluation
from limelm.evaluation.perplexity import TextScore
from limelm.evaluation.scores import average_rows, headline, score_rows
from limelm.evaluation.statistics import FEWEST_FOR_VERDICT, TOO_FEW, is_verdict
from limelm.evaluation.suites import SuiteTask
from limelm.evaluation.tasks import check_names, load_tasks
from limelm.loading import find_checkpoints
from limelm.provenance import shown_path
from limelm.records import Record
from limelm.text import counted

FEW_DOCUMENTS, FEW_ITEMS = 20, 30


@dataclass
class Evaluation:
    """The results of an evaluation.

    Attributes:
        models: facts about each.
        facts: on the run.
        notes: what could not be run, and why.
        cautions: what the results do not show.
        scores: a row per task, metric and model (`score_rows`).
        averages: over tasks, a row per model (`average_rows`).
        answers: the losses of right answers, a row per task and model (`answer_rows`).
        perplexity: a row per domain and model (`perplexity_rows`).
        by_context, by_share: rows by how much text stands before a token, and by its part of the text
            (`limelm.evaluation.breakdown`).
    """

    models: list[Record] = field(default_factory=list)
    facts: Record = field(default_factory=dict)
    notes: list[Record] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    scores: list[Record] = field(default_factory=list)
    averages: list[Record] = field(default_factory=list)
    answers: list[Record] = field(default_factory=list)
    perplexity: list[Record] = field(default_factory=list)
    by_context: list[Record] = field(default_factory=list)
    by_share: list[Record] = field(default_factory=list)


def evaluate(
    checkpoints: list[str],
    labels: list[str],
    wanted: list[SuiteTask],
    data: Path | None,
    text: TextRequest | None,
    settings: TaskSettings,
    out: Path,
) -> Evaluation:
    """Evaluate checkpoints one after the other; each finished task and domain is kept below `out/items` at once.

    Args:
        checkpoints: folders, or names of the Hugging Face hub, of causal language models.
        labels: their names, and their folders' below `out/items`.
        wanted: tasks; there may be none.
        data: a folder of the tasks' files; None for the hub.
        text: domains to score; None for none.

    Raises:
        UserError: for bad input, before any model runs.
    """
    if wanted:
        check_names([task.name for task in wanted], data)
    found = find_checkpoints(checkpoints)
    if text:
        choose_window(text, found)  # tasks may have to be fetched, and text to be read: what is known at once, first
    tasks = load_tasks(wanted, data, settings.seed) if wanted else []
    reading = check_text(text, found, settings.limit) if text else None
    evaluation = Evaluation()
    records: dict[str, list[Record]] = {}
    texts: dict[str, dict[str, TextScore]] = {}
    for checkpoint, label in zip(checkpoints, labels, strict=True):
        loaded = load_for_evaluation(checkpoint, label, settings.device)
        evaluation.models.append(loaded.facts())
        records[label], notes = run_tasks(loaded, tasks, settings, out) if tasks else ([], [])
        evaluation.notes += notes
        if reading:
            texts[label] = score_domains(loaded, reading, out)
        del loaded  # before the next one is read
    evaluation.scores = score_rows(evaluation.models, records, wanted, settings.seed)
    evaluation.averages = average_rows(evaluation.models, records, evaluation.scores, settings.seed)
    evaluation.answers = answer_rows(evaluation.models, records)
    if reading:
        evaluation.perplexity = perplexity_rows(texts, reading)
        evaluation.by_context, evaluation.by_share = context_rows(texts), share_rows(texts)
    evaluation.facts = _facts(wanted, data, reading, settings)
    evaluation.cautions = _cautions(evaluation, [record for own in records.values() for record in own])
    return evaluation


def _facts(wanted: list[SuiteTask], data: Path | None, reading: Reading | None, settings: TaskSettings) -> Record:
    facts: Record = {}
    limited = []
    if wanted:
        facts["data"] = _origin([task.name for task in wanted], data)
        limited.append("items of each task")
    if reading:
        for domain in reading.domains:
            split = " (its validation split)" if are_shards(domain.path) else ""
            facts[f"text: {domain.name}"] = f"{shown_path(domain.path)}{split}"
        facts |= {"window": f"{reading.window:,} tokens", "stride": f"{reading.stride:,} tokens"}
        limited.append("documents of each domain")
    what = " and ".join(limited)
    facts["limit"] = f"all {what}" if settings.limit is None else f"the first {settings.limit:,} {what}"
    if wanted:
        facts |= {
            "batch size": settings.batch_size,
            "seed": settings.seed,
            "lm-eval": importlib.metadata.version("lm-eval"),
        }
    return facts | environment()


def _origin(names: list[str], data: Path | None) -> str:
    """The origin of the tasks' items, for the report."""
    made = [name for name in names if name in GENERATED]
    fetched = "the Hugging Face hub" if data is None else shown_path(data)
    if len(made) == len(names):
        return "made here"
    return f"{fetched}; made here: {', '.join(made)}" if made else fetched


def _cautions(evaluation: Evaluation, records: list[Record]) -> list[str]:
    """Sentences on what the results do not show."""
    samples = ["items"] * bool(evaluation.scores) + ["documents"] * bool(evaluation.perplexity)
    over = " or ".join(samples)
    cautions = [
        f"One checkpoint of each model on a sample of {over}: the errors and intervals are over {over}. How much a "
        "result moves from one training seed to the next is not in them, and is often as much."
    ]
    rows = evaluation.scores + evaluation.averages + evaluation.answers + evaluation.perplexity
    compared = sum(is_verdict(row["verdict"]) for row in rows)
    if compared:
        were = "was" if compared == 1 else "were"
        cautions.append(
            f"{counted(compared, 'difference')} {were} tested, each with a 95 % interval, some of them on the same "
            f"items: were all models equally good, about {0.05 * compared:.2g} of them would still be called a "
            "difference."
        )
    small = _names(f"{row['task']} ({row['items']})" for row in evaluation.scores if row["items"] < FEW_ITEMS)
    if small:
        cautions.append(
            f"{small}: so few items that errors, intervals and verdicts cannot be relied on. At 0 % and 100 % the "
            "error is given as 0, at any number of items."
        )
    few = _names(
        f"{row['domain']} ({row['documents']})"
        for row in evaluation.perplexity
        if row["low"] is not None and row["documents"] < FEW_DOCUMENTS
    )
    if few:
        cautions.append(
            f"{few}: so few documents that the intervals are rough. They are Student's, which expects bell-shaped "
            "scatter, and a single document that is out of the ordinary moves all of them."
        )
    if any(row["verdict"] == TOO_FEW for row in rows):
        cautions.append(
            f"With fewer than {FEWEST_FOR_VERDICT} items, passages or documents no verdict is given, whatever the "
            "interval: among so few, a single one decides."
        )
    trivial = _trivial(headline(evaluation.scores))
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


def _trivial(rows: list[Record]) -> str:
    """Name the tasks on which scores are no better than trivial answers, and the models unless that is true of all."""
    named = []
    for task in dict.fromkeys(row["task"] for row in rows):
        verdicts = {row["model"]: row["above_trivial"] for row in rows if row["task"] == task}
        models = [model for model, above in verdicts.items() if above == "no"]
        if models:
            named.append(task if len(models) == len(verdicts) else f"{task} ({', '.join(models)})")
    return ", ".join(named)


def _names(names: Iterable[str]) -> str:
    """Join names in words, each once, in order."""
    return ", ".join(dict.fromkeys(names))
