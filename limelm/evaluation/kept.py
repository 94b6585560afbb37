"""Results that an earlier run left: used again if they have exactly the expected form, otherwise made anew."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from limelm.errors import UserError
from limelm.records import AnyText, Count, Positive, Record, build, parse_json, read_text

MOST_BYTES = 2**30  # of one file: a domain of millions of documents


class HasItems(Protocol):
    """A kept result."""

    @property
    def items(self) -> tuple[Any, ...]:
        """The items of the result; never empty."""


@dataclass(frozen=True)
class TextItem:
    """One document's score: `limelm.evaluation.perplexity.TextScore`."""

    nats: float
    tokens: Count
    bytes: Count


@dataclass(frozen=True)
class KeptText:
    """A model's score on a domain."""

    identity: Record
    domain: AnyText
    items: tuple[TextItem, ...]


@dataclass(frozen=True)
class TaskItem:
    """One item of a task: `limelm.evaluation.items.items_of`."""

    doc_id: Count
    prompt_fingerprint: str
    cut: bool
    scores: dict[str, float]
    log_likelihoods: tuple[float, ...] | None = None
    prediction: Count | None = None
    gold: Count | None = None
    group: str | None = None


@dataclass(frozen=True)
class KeptTask:
    """A model's scores on a task: `limelm.evaluation.harness.run_task`."""

    identity: Record
    task: str
    version: Any
    shots: Count
    examples_are_scored_items: bool
    results: dict[str, float]
    items_cut: Count
    items: tuple[TaskItem, ...]

    def __post_init__(self) -> None:
        if any(item.scores.keys() != self.items[0].scores.keys() for item in self.items):
            raise ValueError("its items have different scores")


@dataclass(frozen=True)
class ProblemItem:
    """One problem that a model was asked: `limelm.evaluation.exact_match.score_checkpoint`."""

    prompt: AnyText
    answer: AnyText
    written: AnyText | None
    correct: bool


@dataclass(frozen=True)
class KeptAnswers:
    """A model's answers to all problems of a folder."""

    data_sha256: str
    problems: Positive
    correct: Count
    items: tuple[ProblemItem, ...]

    def __post_init__(self) -> None:
        if self.problems != len(self.items) or self.correct != sum(item.correct for item in self.items):
            raise ValueError("its counts are not those of its items")


def read_kept(path: Path, kind: type[HasItems]) -> Record | None:
    """The plain values of a kept result; None if there is none, or one of another form, which is then made anew."""
    try:
        values = parse_json(read_text(path, MOST_BYTES), str(path))
        kept = build(kind, values, str(path))
    except UserError:
        return None
    return values if kept.items else None
