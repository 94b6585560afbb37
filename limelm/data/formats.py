"""Files of text: .txt (and .py), .jsonl, .jsonl.gz and .parquet, one document after the other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from limelm.data.lines import MOST_BYTES, check_size, decode, read_lines, read_whole, unpacked
from limelm.errors import UserError
from limelm.extras import import_extra
from limelm.records import parse_json

_PARQUET_ROWS = 128  # at once, at most
_PARQUET_BUFFER = 2**20  # bytes; the file is read page by page, however large its row groups are


def read_file(stream: BinaryIO, file: Path, text_field: str = "text", skip: int = 0) -> Iterator[str]:
    """Yield an open file's documents: a .txt (or .py) is one document, and so is a line of .jsonl or a row of .parquet.

    Args:
        skip: leave out so many documents at the beginning; they are not parsed.

    Raises:
        UserError: for a file that is not UTF-8 text, is broken, or lacks the field; it names the line or row.
    """
    if file.name.lower().endswith(".parquet"):
        yield from _parquet_documents(stream, file, text_field, skip)
    elif file.name.lower().endswith((".jsonl", ".jsonl.gz")):
        with unpacked(stream, file) as lines:
            yield from _json_documents(lines, file, text_field, skip)
    elif not skip:
        yield read_whole(stream, file)


def text_of(row: object, text_field: str, where: str) -> str:
    """The text of a line or row.

    Raises:
        UserError: where it has no such field, or something else than text in it.

    Returns:
        The text; of a row that has none (null), an empty one.
    """
    if not isinstance(row, dict):
        raise UserError(f"{where}: not an object with a field {text_field!r}")
    if text_field not in row:
        raise UserError(f"{where}: no field {text_field!r} (it has: {', '.join(map(str, row))})")
    text = row[text_field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(f"{where}: field {text_field!r} is {type(text).__name__}, not a string")
    try:
        check_size(len(text.encode()), where)
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: field {text_field!r} is not valid Unicode ({error.reason})") from error
    return text


def _json_documents(stream: BinaryIO, file: Path, text_field: str, skip: int) -> Iterator[str]:
    for where, line in read_lines(stream, file):
        if skip:
            skip -= 1
        else:
            yield text_of(parse_json(decode(line, where), where), text_field, where)


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
        for each in range(group, table.num_row_groups):
            rows = _rows_at_once(table, each, text_field)
            for batch in table.iter_batches(batch_size=rows, row_groups=[each], columns=[text_field]):
                for row in batch.to_pylist():
                    if number >= skip:
                        yield text_of(row, text_field, f"{file} row {number}")
                    number += 1
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not pyarrow's
            raise
        raise UserError(f"{file}: broken Parquet file ({error})") from error


def _rows_at_once(table: Any, group: int, text_field: str) -> int:
    """The number of rows to read at once, so that they take no more memory than the largest document."""
    rows = table.metadata.row_group(group)
    columns = [rows.column(number) for number in range(rows.num_columns)]
    size = sum(each.total_uncompressed_size for each in columns if each.path_in_schema.split(".")[0] == text_field)
    return max(1, min(_PARQUET_ROWS, MOST_BYTES * rows.num_rows // max(1, size)))
