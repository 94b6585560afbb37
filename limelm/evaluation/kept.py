"""Results that an earlier run left: used again if they have exactly the expected form, otherwise made anew."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from limelm.errors import UserError
from limelm.records import AnyText, Check, Count, Fraction, Positive, Record, build, parse_json, read_text

SOME = Check(bool, "one or more")
MOST_BYTES = 2**30  # of one file: a domain of millions of documents


@dataclass(frozen=True)
class TextItem:
    """One document's score: `limelm.evaluation.perplexity.TextScore`."""

    nats: float
    tokens: Count
    bytes: Count
    context_nats: tuple[float, ...]
    context_tokens: tuple[Count, ...]
    share_nats: tuple[float, ...]
    share_tokens: tuple[Count, ...]

    def __post_init__(self) -> None:
        for name in ("context", "share"):
            if len(getattr(self, f"{name}_nats")) != len(getattr(self, f"{name}_tokens")):
                raise ValueError(f"its {name}_nats and {name}_tokens are of different classes")


@dataclass(frozen=True)
class KeptText:
    """A model's score on a domain."""

    identity: Record
    domain: AnyText
    items: Annotated[tuple[TextItem, ...], SOME]


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
    answer_log_likelihood: float | None = None
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
    items: Annotated[tuple[TaskItem, ...], SOME]

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
    items: Annotated[tuple[ProblemItem, ...], SOME]

    def __post_init__(self) -> None:
        if self.problems != len(self.items) or self.correct != sum(item.correct for item in self.items):
            raise ValueError("its counts are not those of its items")


@dataclass(frozen=True)
class SeedScore:
    """The accuracy of one training on a task's problems."""

    task: AnyText
    model: AnyText
    seed: Count
    accuracy: Fraction


@dataclass(frozen=True)
class KeptScores:
    """A run's accuracies on a task, `limelm.evaluation.exact_match.score_run`, and the fingerprint of its results."""

    made_of: str
    task: AnyText
    worked_steps: bool
    train_problems: Positive
    problems: Positive
    tested_on: AnyText
    chance: Fraction
    constant_rate: Fraction
    baseline: AnyText
    scores: Annotated[tuple[SeedScore, ...], SOME]


def read_kept(path: Path, kind: type) -> Record | None:
    """The plain values of a kept result; None if there is none, or one of another form, which is then made anew."""
    try:
        values: Record = parse_json(read_text(path, MOST_BYTES), str(path))
        build(kind, values, str(path))
    except UserError:
        return None
    return values
