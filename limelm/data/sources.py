"""Sources of documents: local files, a Hugging Face data set, Python's own library, or any function.

A source gives its documents in a fixed order, holds only a few of them in memory, and can begin again at the position
where an earlier reading stopped.
"""

import hashlib
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from limelm.data.errors import Interruption
from limelm.data.formats import read_file, text_of
from limelm.errors import UserError
from limelm.extras import import_extra
from limelm.records import Count, build

_NOT_LIBRARY_CODE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class Stream(Protocol):
    """An iterator of documents that knows its position."""

    @property
    def position(self) -> Any:
        """The position after the document read last, as plain JSON values that `Source.open` takes."""

    @property
    def share(self) -> float | None:
        """The approximate share of the source that has been read, from 0 to 1; None if unknown."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the documents from here on; may be called once."""


class Source(ABC):
    """A source of documents that can be read again, from the beginning or from a position."""

    @abstractmethod
    def open(self, position: Any = None) -> Stream:
        """Start reading at the first document, or after the one at which a stream's `position` was taken."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Plain JSON values that tell these documents from others."""


@dataclass(frozen=True)
class Repeatable(Source):
    """The documents of a function that makes an iterator; a position is a number of documents."""

    documents: Callable[[], Iterable[str]]

    def open(self, position: Any = None) -> "Stream":
        return _CountedStream(self.documents(), build(Count, position or 0, "the journal", "position"))

    def identity(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class LocalFiles(Source):
    """The documents of local files, as `list_files` names them.

    Reading raises:
        UserError: for a file that is not UTF-8 text, is broken, or lacks the field; it names the line or row.
        Interruption: for a file that cannot be read.
    """

    files: list[Path]
    text_field: str = "text"

    def __post_init__(self) -> None:
        _check_given(text_field=self.text_field)

    def open(self, position: Any = None) -> "Stream":
        file, document = _file_position(position or (0, 0), len(self.files))
        return _FileStream(self, file, document)

    def identity(self) -> dict[str, Any]:
        """A hash of the files' paths and sizes, and the field."""
        sizes = self.sizes()
        listing = "".join(f"{file.resolve()} {size}\n" for file, size in zip(self.files, sizes, strict=True))
        digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
        return {
            "files": f"{len(sizes):,} of {sum(sizes):,} bytes, names and sizes {digest[:12]}",
            "text_field": self.text_field,
        }

    def sizes(self) -> list[int]:
        """The files' sizes in bytes.

        Raises:
            UserError: for a file that is no longer there.
        """
        sizes = []
        for file in self.files:
            try:
                sizes.append(file.stat().st_size)
            except OSError as error:
                raise UserError.from_os_error(file, error) from error
        return sizes


@dataclass(frozen=True)
class HubPosition:
    """The number of rows read, and `datasets`' own state, so that finished files are not fetched again."""

    rows: Count
    state: dict[str, Any]


@dataclass(frozen=True)
class HubDataset(Source):
    """The documents of a data set that `datasets.load_dataset` knows, by its hub name or a local folder; streamed.

    Reading raises:
        UserError: where `datasets` is not installed, or a row has no such field.
        Interruption: where the data set cannot be opened, or stops in the middle.
    """

    path: str
    name: str | None = None
    split: str = "train"
    text_field: str = "text"

    def __post_init__(self) -> None:
        _check_given(dataset=self.path, dataset_config=self.name, dataset_split=self.split, text_field=self.text_field)

    @property
    def description(self) -> str:
        """The data set in a few words; for a local folder its name alone."""
        path = Path(self.path).resolve().name if Path(self.path).exists() else self.path
        return f"{path}, {self.name or 'default'}, {self.split}"

    def open(self, position: Any = None) -> "Stream":
        return _HubStream(self, build(HubPosition | None, position, "the journal", "position"))

    def identity(self) -> dict[str, Any]:
        return {
            "dataset": _local_name(self.path) or self.path,
            "dataset_config": self.name,
            "dataset_split": self.split,
            "text_field": self.text_field,
        }


def list_python_library() -> list[Path]:
    """List the .py files of this Python's standard library, without its tests: real text on every user's machine.

    Raises:
        UserError: where this Python was installed without its sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path for path in sorted(root.rglob("*.py")) if not _NOT_LIBRARY_CODE & set(path.relative_to(root).parts[:-1])
    ]
    if len(files) < 100:
        raise UserError(f"{root}: this Python has no library sources to train on; give text with --data")
    return files


def _file_position(position: Any, files: int) -> tuple[int, int]:
    """Check a position: a file's number, and the number of its documents that have been read."""
    place = build(tuple[Count, ...], position, "the journal", "position")
    if len(place) != 2 or place[0] > files:
        raise UserError(f"the journal: position={list(place)} must be the number of a file, up to {files}, and a count")
    return place[0], place[1]


def _check_given(**values: str | None) -> None:
    for name, value in values.items():
        if value is not None and not value.strip():
            raise UserError(f"{name}={value!r} must not be empty")


def _local_name(path: str) -> str | None:
    """A mark that tells a local folder from others of the same name without its path; None for a hub name."""
    if not Path(path).exists():
        return None
    real = Path(path).resolve()
    return f"{real.name} ({hashlib.sha256(str(real).encode(errors='surrogateescape')).hexdigest()[:12]})"


class _CountedStream:
    share = None

    def __init__(self, documents: Iterable[str], position: int):
        self.documents, self.position = documents, position

    def __iter__(self) -> Iterator[str]:
        for text in islice(self.documents, self.position, None):
            self.position += 1
            yield text


class _FileStream:
    """A stream of local files; its position is a file's number and the number of documents read in that file."""

    def __init__(self, source: LocalFiles, file: int, document: int):
        self.source, self.file, self.document = source, file, document
        self.starts = [0, *accumulate(source.sizes())]
        self.raw: BinaryIO | None = None

    @property
    def position(self) -> list[int]:
        return [self.file, self.document]

    @property
    def share(self) -> float | None:
        in_file = 0 if self.raw is None or self.raw.closed else self.raw.tell()
        return (self.starts[self.file] + in_file) / max(1, self.starts[-1])

    def __iter__(self) -> Iterator[str]:
        files = self.source.files
        while self.file < len(files):
            path = files[self.file]
            try:
                with path.open("rb") as self.raw:
                    for text in read_file(self.raw, path, self.source.text_field, skip=self.document):
                        self.document += 1
                        yield text
            except OSError as error:
                raise Interruption.from_os_error(path, error) from error
            self.file, self.document = self.file + 1, 0


class _HubStream:
    share = None

    def __init__(self, source: HubDataset, position: HubPosition | None):
        self.source = source
        self.rows = position.rows if position else 0
        datasets = import_extra("datasets", "data")
        try:
            self.stream = datasets.load_dataset(source.path, source.name, split=source.split, streaming=True)
            if position:
                self.stream.load_state_dict(position.state)
        except Exception as error:
            raise self._stopped(error) from error

    @property
    def position(self) -> dict[str, Any]:
        return {"rows": self.rows, "state": self.stream.state_dict()}

    def __iter__(self) -> Iterator[str]:
        rows = iter(self.stream)
        while True:
            try:
                row = next(rows, None)
            except Exception as error:
                raise self._stopped(error) from error
            if row is None:
                return
            text = text_of(row, self.source.text_field, f"{self.source.path} row {self.rows}")
            self.rows += 1
            yield text

    def _stopped(self, error: Exception) -> Interruption:
        """Turn whatever a hub, a proxy or a loading script may raise into an interruption."""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        dataset = self.source
        return Interruption(f"data set {dataset.path!r} (config {dataset.name}, split {dataset.split}): {reason}")
