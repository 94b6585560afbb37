"""Domains of text on which models are scored: checked before any model runs, resumable domain by domain."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from limelm._version import __version__
from limelm.data.dataset import TokenDataset, are_shards, check_shards
from limelm.data.listing import SUFFIXES
from limelm.data.shards import Manifest
from limelm.errors import UserError
from limelm.evaluation.breakdown import SHARE_NAMES, Breakdown, breakdown_rows, context_name
from limelm.evaluation.items import FOLDER, file_name, fingerprint, read_record, write_record
from limelm.evaluation.kept import KeptText
from limelm.evaluation.loading import LoadedModel
from limelm.evaluation.perplexity import (
    TextScore,
    difference,
    items_of_text,
    read_texts,
    score_path,
    text_record,
    text_score,
)
from limelm.evaluation.statistics import loss_verdict
from limelm.loading import FoundCheckpoint
from limelm.records import Record
from limelm.text import has_control_characters, printable

LONGEST_DEFAULT = 1024
UNIT = "bits per byte"
_COMPARED = ("difference", "difference_low", "difference_high", "verdict")


@dataclass(frozen=True)
class TextRequest:
    """Text to score.

    Attributes:
        paths: by the domains' names, files or folders of text, or folders of token shards.
        window: tokens that a model reads at once; None for the smallest context, at most LONGEST_DEFAULT.
        stride: tokens by which the window moves; None for half the window.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    window: int | None = None
    stride: int | None = None


@dataclass(frozen=True)
class Domain:
    """A domain whose text has been read once; `fingerprint` is over everything that is scored."""

    name: str
    path: Path
    fingerprint: str


@dataclass(frozen=True)
class Reading:
    """The domains, and the window and stride with which every model reads them.

    Attributes:
        window, stride: as in `TextRequest`.
        limit: only the first so many documents of each domain; None for all.
    """

    domains: list[Domain]
    window: int
    stride: int
    limit: int | None


def named_paths(arguments: list[str]) -> dict[str, Path]:
    """Domains from `NAME=PATH` or `PATH`, which takes the file's or folder's stem as its name.

    Raises:
        UserError: for two equal names, an empty one, or one with control characters.
    """
    paths: dict[str, Path] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator:
            name, path = _stem(Path(argument)), argument
        if not name or not path:
            raise UserError(f"--domain: {argument!r} is not NAME=PATH or PATH")
        if has_control_characters(name):
            raise UserError(f"--domain: the name {printable(name)} must be a text without control characters")
        if name in paths:
            raise UserError(f"--domain: two domains are called {name!r}; name them apart, as NAME=PATH")
        paths[name] = Path(path)
    return paths


def choose_window(request: TextRequest, models: list[FoundCheckpoint]) -> tuple[int, int]:
    """Choose the window and stride, in tokens, with which all models read text; no text is read.

    Raises:
        UserError: for a window or stride that cannot be, or a path where there is nothing.
    """
    bounds = {found.checkpoint: found.context for found in models if found.context is not None}
    window = request.window or min([LONGEST_DEFAULT, *bounds.values()])
    for checkpoint, context in bounds.items():
        if window > context:
            raise UserError(f"--window: {window} tokens, but the context of {checkpoint} holds {context}")
    stride = request.stride or window // 2
    if not 1 <= stride < window:
        raise UserError(f"--stride: {stride} must be from 1 to {window - 1}, less than the window of {window} tokens")
    for path in request.paths.values():
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
    return window, stride


def check_text(request: TextRequest, models: list[FoundCheckpoint], limit: int | None) -> Reading:
    """Read all of the text once, and choose how every model reads it: shards must be of the models' tokenizer.

    Raises:
        UserError: as `choose_window` does, and for text that cannot be read, and none.
    """
    window, stride = choose_window(request, models)
    domains = []
    for name, path in request.paths.items():
        if are_shards(path):
            for found in models:
                check_shards(path, found.tokenizer, found.checkpoint)
            hashed = _shards_fingerprint(path)
        else:
            hashed = _text_fingerprint(path, limit)
        domains.append(Domain(name, path, hashed))
    return Reading(domains, window, stride, limit)


def score_domains(loaded: LoadedModel, reading: Reading, out: Path) -> dict[str, TextScore]:
    """Score a model on each domain; domains that an earlier run of the same finished are not scored again.

    Returns:
        The scores by domain.

    Raises:
        UserError: for text that the model's tokenizer makes nothing of, or a loss that is no number.
    """
    scores = {}
    for domain in reading.domains:
        identity = loaded.identity | {
            "limelm": __version__,
            "text": domain.fingerprint,
            "window": reading.window,
            "stride": reading.stride,
            "limit": reading.limit,
        }
        path = out / FOLDER / file_name(loaded.label, f"{domain.name}-perplexity")
        record = read_record(path, identity, KeptText)
        if record is None:
            score = score_path(
                loaded.model,
                loaded.tokenizer,
                domain.path,
                reading.window,
                reading.stride,
                reading.limit,
                description=f"{loaded.label}: {domain.name}",
            )
            record = {"identity": identity, "domain": domain.name, "items": items_of_text(score)}
            write_record(path, record)
        scores[domain.name] = text_score(record["items"])
    return scores


def perplexity_rows(scores: dict[str, dict[str, TextScore]], reading: Reading) -> list[Record]:
    """One row for each domain and model.

    Args:
        scores: by the models' labels, what `score_domains` gave.

    Returns:
        Rows as of `text_record`, with the `difference` in bits per byte to the first model, paired over documents, its
        bounds, and a `verdict`: None for the first model; bounds are None for a single document.
    """
    first = next(iter(scores.values()))
    rows = []
    for domain in reading.domains:
        for label, own in scores.items():
            row = text_record(label, domain.name, own[domain.name], reading.window, reading.stride)
            compared = own is not first
            rows.append(row | (_comparison(first[domain.name], own[domain.name]) if compared else _NOT_COMPARED))
    return rows


def context_rows(scores: dict[str, dict[str, TextScore]]) -> list[Record]:
    """The losses by how many tokens stand before a token; argument as of `perplexity_rows`."""
    return _class_rows(scores, lambda score: score.by_context, context_name)


def share_rows(scores: dict[str, dict[str, TextScore]]) -> list[Record]:
    """The losses by a token's part of the text; argument as of `perplexity_rows`."""
    return _class_rows(scores, lambda score: score.by_share, SHARE_NAMES.__getitem__)


def _class_rows(
    scores: dict[str, dict[str, TextScore]], breakdown: Callable[[TextScore], Breakdown], name: Callable[[int], str]
) -> list[Record]:
    """Rows of each model and domain, compared with the first model where it has the same tokens."""
    first = next(iter(scores.values()))
    rows = []
    for domain in first:
        for label, own in scores.items():
            is_compared = own is not first and own[domain].tokens == first[domain].tokens
            other = breakdown(first[domain]) if is_compared else None
            rows += breakdown_rows(label, domain, breakdown(own[domain]), other, name)
    return rows


_NOT_COMPARED: Record = dict.fromkeys(_COMPARED)


def _comparison(first: TextScore, second: TextScore) -> Record:
    bits = difference(first, second)
    said = loss_verdict(bits, UNIT, sample=sum(size > 0 for size in first.bytes))
    return dict(zip(_COMPARED, (bits.mean, bits.low, bits.high, said), strict=True))


def _stem(path: Path) -> str:
    """A file's name without the suffix of its format."""
    name = path.name or path.resolve().name
    suffix = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(suffix)]


def _text_fingerprint(path: Path, limit: int | None) -> str:
    total, size = hashlib.sha256(), 0
    for text in islice(read_texts(path), limit):
        content = text.encode()
        total.update(f"{len(content)} ".encode() + content)
        size += len(content)
    if not size:
        raise UserError(f"{path}: no text to score")
    return total.hexdigest()[:16]


def _shards_fingerprint(folder: Path) -> str:
    """A hash of the validation split, whose shards are compared with their manifest."""
    TokenDataset(folder, "validation", 1)
    manifest = Manifest.load(folder)
    shards = [(shard.tokens, shard.sha256) for shard in manifest.splits["validation"].shards]
    return fingerprint([manifest.tokenizer_sha256, manifest.dtype, shards])
