"""A run's logs, one JSON record per line, each with its training `step`: never half a line, never a step twice."""

import json
from dataclasses import dataclass
from pathlib import Path

from limelm.errors import UserError
from limelm.files import append_text, write_text
from limelm.records import AnyFloat, Count, Fraction, NotNegative, Record, Records, build, parse_json

METRICS, ROUTERS_LOG = "metrics.jsonl", "routers.jsonl"


@dataclass(frozen=True)
class MetricsLine:
    """One training step, with the held-out loss where it was measured; or that measurement alone."""

    step: Count
    tokens: Count
    seconds: NotNegative
    loss: AnyFloat | None = None
    grad_norm: AnyFloat | None = None
    learning_rate: dict[str, float] | None = None
    eval_loss: AnyFloat | None = None


@dataclass(frozen=True)
class LayerStatistics:
    """One routing layer: see `limelm.analysis.retrieval_statistics.layer_statistics`."""

    layer: Count
    entropy: AnyFloat
    normalized_entropy: AnyFloat
    self_weight: AnyFloat
    pruned: Count
    weights: Count


@dataclass(frozen=True)
class PruningTotals:
    """Pruned weights of a whole model: see `limelm.analysis.retrieval_statistics.pruning_totals`."""

    pruned: Count
    weights: Count
    padded_weights: Count
    pruned_share: Fraction
    padded_pruned_share: Fraction


@dataclass(frozen=True)
class RoutersLine(PruningTotals):
    """Statistics of the routers at one evaluation."""

    step: Count
    layers: tuple[LayerStatistics, ...]


KINDS: dict[str, type] = {METRICS: MetricsLine, ROUTERS_LOG: RoutersLine}


def append_line(path: Path, record: Record) -> None:
    """Add a record at the end.

    Raises:
        UserError: where it cannot be written.
    """
    append_text(path, json.dumps(record) + "\n")


def read_lines(path: Path) -> Records:
    """Read the records of a log, none if there is no file; a last line that a kill cut short is left out.

    Args:
        path: of a log; its name says what its lines are.

    Raises:
        UserError: for a file that is broken before its last line, or that cannot be read.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise UserError(f"{path}: not a file")
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError.from_os_error(path, error) from error
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # the last is empty, or what a kill left of a line
        where = f"{path}: line {number}"
        record = parse_json(line, where)
        build(KINDS[path.name], record, where)
        records.append(record)
    return records


def drop_lines_after(path: Path, step: int) -> Records:
    """Drop the records after `step`, at which a training goes on.

    Returns:
        The records that stay.

    Raises:
        UserError: as `read_lines` does, or where the file cannot be written.
    """
    if not path.exists():
        return []
    kept = [record for record in read_lines(path) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept
