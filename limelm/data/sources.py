"""Where documents come from: text files, JSON lines, Parquet, a Hugging Face data set, or Python's own library.

Every source is an iterator of strings, one a document, that holds only a few of them in memory.
"""

import gzip
import importlib
import json
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from limelm.errors import UserError

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
_NOT_LIBRARY_CODE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class HubDataset:
    """A data set that `datasets.load_dataset` knows, by its hub name or a local folder; it is streamed."""

    path: str
    name: str | None = None
    split: str = "train"


def list_files(paths: list[Path]) -> list[Path]:
    """The text files that `paths` name: files as they are, folders searched below, in alphabetical order.

    Raises:
        UserError: for a path that is missing or has no readable suffix, or a folder without any such file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.lower().endswith(SUFFIXES))
            if not found:
                raise UserError(f"{path}: no file ending in {', '.join(SUFFIXES)} in this folder")
            files += found
        elif not path.exists():
            raise UserError(f"{path}: no such file or folder")
        elif not path.name.lower().endswith(SUFFIXES):
            raise UserError(f"{path}: cannot read this kind of file; allowed: {', '.join(SUFFIXES)}")
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def read_documents(files: list[Path], text_field: str = "text") -> Iterator[str]:
    """The documents of local files: a .txt (or .py) is one document, a line of .jsonl or a row of .parquet is one.

    Raises:
        UserError: for a file that is not UTF-8 text, is broken, or lacks the field; it names the line or row.
    """
    for file in files:
        try:
            name = file.name.lower()
            if name.endswith((".txt", ".py")):
                yield _decode(file.read_bytes(), file)
            elif name.endswith(".parquet"):
                yield from _parquet_documents(file, text_field)
            else:
                yield from _json_documents(file, text_field)
        except OSError as error:
            raise UserError.from_os_error(file, error) from error


def read_hub_dataset(dataset: HubDataset, text_field: str = "text") -> Iterator[str]:
    """The documents of a Hugging Face data set, streamed.

    Raises:
        UserError: where `datasets` is not installed, or it cannot open the data set.
    """
    datasets = _import_extra("datasets")
    try:
        stream = datasets.load_dataset(dataset.path, dataset.name, split=dataset.split, streaming=True)
        for number, row in enumerate(stream):
            yield _field(row, text_field, f"{dataset.path} row {number}")
    except UserError:
        raise
    except Exception as error:  # whatever a hub, a proxy or a loading script may raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"data set {dataset.path!r} (config {dataset.name}, split {dataset.split}): {reason}"
        ) from error


def list_python_library() -> list[Path]:
    """The .py files of this Python's standard library, without its tests: real text on every user's machine.

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


def read_python_library() -> Iterator[str]:
    """The documents of the embedded default: one .py file is one document."""
    yield from read_documents(list_python_library())


def _decode(data: bytes, where: object) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {data[error.start]:#04x} at {error.start})") from error
    if "\0" in text:
        raise UserError(f"{where}: binary, not text (a zero byte at {text.index(chr(0))})")
    return text


def _json_documents(file: Path, text_field: str) -> Iterator[str]:
    with gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                where = f"{file} line {number}"
                try:
                    row = json.loads(_decode(line, where))
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{where}: not JSON ({error})") from error
                yield _field(row, text_field, where)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{file}: broken gzip file ({error})") from error


def _parquet_documents(file: Path, text_field: str) -> Iterator[str]:
    pyarrow = _import_extra("pyarrow")
    parquet = _import_extra("pyarrow.parquet")
    try:
        table = parquet.ParquetFile(file)
        if text_field not in table.schema_arrow.names:
            raise UserError(f"{file}: no field {text_field!r} (it has: {', '.join(table.schema_arrow.names)})")
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
            for row in batch.to_pylist():
                yield _field(row, text_field, f"{file} row {number}")
                number += 1
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{file}: broken Parquet file ({error})") from error


def _field(row: object, text_field: str, where: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f"{where}: not an object with a field {text_field!r}")
    if text_field not in row:
        raise UserError(f"{where}: no field {text_field!r} (it has: {', '.join(map(str, row))})")
    text = row[text_field]
    if not isinstance(text, str):
        raise UserError(f"{where}: field {text_field!r} is {type(text).__name__}, not a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: field {text_field!r} is not valid Unicode ({error.reason})") from error
    return text


def _import_extra(module: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module.split('.')[0]} is not installed; install it with: pip install 'limelm[data]'"
        ) from error
