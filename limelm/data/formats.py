"""Files of text: .txt (and .py), .jsonl, .jsonl.gz and .parquet, one document after the other."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from limelm.errors import UserError
from limelm.extras import import_extra

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
_PARQUET_ROWS = 128
_PARQUET_BUFFER = 2**20  # bytes; the file is read page by page, however large its row groups are


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


def read_file(stream: BinaryIO, file: Path, text_field: str = "text", skip: int = 0) -> Iterator[str]:
    """The documents of an open file: a .txt (or .py) is one document, a line of .jsonl or a row of .parquet is one.

    Args:
        skip: leave out so many documents at the beginning; they are not parsed.

    Raises:
        UserError: for a file that is not UTF-8 text, is broken, or lacks the field; it names the line or row.
    """
    name = file.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet_documents(stream, file, text_field, skip)
    elif name.endswith(".jsonl"):
        yield from _json_documents(stream, file, text_field, skip)
    elif name.endswith(".jsonl.gz"):
        try:
            with gzip.open(stream, "rb") as unpacked:
                yield from _json_documents(cast(BinaryIO, unpacked), file, text_field, skip)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{file}: broken gzip file ({error})") from error
    elif not skip:
        yield _decode(stream.read(), file)


def text_of(row: object, text_field: str, where: str) -> str:
    """The text of a line or row.

    Raises:
        UserError: where it has no such field, or something else than text in it.
    """
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


def _decode(data: bytes, where: object) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {data[error.start]:#04x} at {error.start})") from error
    if "\0" in text:
        raise UserError(f"{where}: binary, not text (a zero byte at {text.index(chr(0))})")
    return text


def _json_documents(stream: BinaryIO, file: Path, text_field: str, skip: int) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        if skip:
            skip -= 1
            continue
        where = f"{file} line {number}"
        try:
            row = json.loads(_decode(line, where))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error})") from error
        yield text_of(row, text_field, where)


def _parquet_documents(stream: BinaryIO, file: Path, text_field: str, skip: int) -> Iterator[str]:
    pyarrow = import_extra("pyarrow", "data")
    parquet = import_extra("pyarrow.parquet", "data")
    try:
        table = parquet.ParquetFile(stream, buffer_size=_PARQUET_BUFFER, pre_buffer=False)
        if text_field not in table.schema_arrow.names:
            raise UserError(f"{file}: no field {text_field!r} (it has: {', '.join(table.schema_arrow.names)})")
        group, number = 0, 0
        while group < table.num_row_groups and number + table.metadata.row_group(group).num_rows <= skip:
            number += table.metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, table.num_row_groups))
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS, row_groups=groups, columns=[text_field]):
            for row in batch.to_pylist():
                if number >= skip:
                    yield text_of(row, text_field, f"{file} row {number}")
                number += 1
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not pyarrow's
            raise
        raise UserError(f"{file}: broken Parquet file ({error})") from error
