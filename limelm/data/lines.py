"""Read text files line by line, in bounded memory: never more than one document at a time."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from limelm.errors import UserError

# Of one document. Its tokens take more than a hundred times as much memory while they are made.
MOST_BYTES = 16 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def unpacked(stream: BinaryIO, file: Path) -> Iterator[BinaryIO]:
    """A stream's content, decompressed if the file's name ends in .gz.

    Raises:
        UserError: when a broken gzip file is read.
    """
    if not file.name.lower().endswith(".gz"):
        yield stream
        return
    try:
        with gzip.open(stream, "rb") as inner:
            yield cast(BinaryIO, inner)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file}: broken gzip file ({error})") from error


def read_lines(stream: BinaryIO, file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the lines that are not blank, without byte-order marks, each with its place for error messages.

    Raises:
        UserError: for a line that is too long to be a document.
    """
    number = 0
    while line := stream.readline(MOST_BYTES + 1):
        number += 1
        where = f"{file} line {number}"
        check_size(len(line), where)
        line = line.removeprefix(_BYTE_ORDER_MARK)  # of several files put together, any line may begin with one
        if line.strip():
            yield where, line


def read_whole(stream: BinaryIO, file: Path) -> str:
    """Read a whole file as one document.

    Raises:
        UserError: where it is too long for one, or no text.
    """
    data = stream.read(MOST_BYTES + 1)
    check_size(len(data), str(file))
    return decode(data, str(file))


def check_size(size: int, where: str) -> None:
    """Refuse a document (or line) of too many bytes.

    Raises:
        UserError: where `size` is too large.
    """
    if size > MOST_BYTES:
        raise UserError(
            f"{where}: a document of more than {MOST_BYTES:,} bytes, which is the most; cut it into several documents"
        )


def decode(data: bytes, where: str) -> str:
    """Decode bytes to text, without a byte-order mark.

    Raises:
        UserError: for what is not UTF-8, or binary.
    """
    try:
        text = data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        if data.startswith(_UTF_16):
            raise UserError(f"{where}: UTF-16; save it as UTF-8") from error
        raise UserError(f"{where}: not UTF-8 text (byte {data[error.start]:#04x} at {error.start})") from error
    if "\0" in text:
        raise UserError(f"{where}: binary, not text (a zero byte at {text.index(chr(0))})")
    return text
