"""Columns of tables and how their values are written: on the page, in Markdown and on a terminal."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from limelm.records import Records
from limelm.text import markdown_cell, printable

LONGEST_NAME = 22  # characters of a name on a terminal

Show = Callable[[Any], str]


def plain(value: Any) -> str:
    """Write a value as it is; None becomes an empty cell."""
    return "" if value is None else str(value)


def unbroken(value: Any) -> str:
    """Write a value as it is, in one line."""
    return plain(value).replace(" ", "\u00a0")


def number(form: str, factor: float = 1, unit: str = "") -> Show:
    """Make a function that writes numbers; None and NaN become an empty cell.

    Args:
        form: a format such as "+.3f".
        factor: what numbers are multiplied by first.
        unit: what stands behind.
    """
    return lambda value: "" if value is None or math.isnan(value) else f"{factor * value:{form}}{unit}"


count = number(",")
thousandths, signed_thousandths = number(".3f"), number("+.3f")
percent, points = number(".1f", 100), number("+.1f", 100)  # shares, and differences of shares
share = number(".1f", 100, "\u00a0%")


@dataclass(frozen=True)
class Column:
    """One column of a table: a field of the records, the words above it, and how its values are written."""

    key: str
    header: str
    show: Show = plain
    is_text: bool = False


def as_text(columns: Sequence[Column], records: Records, *keys: str) -> str:
    """Write records for a terminal, a line each; `keys` choose and order the columns, by default all."""
    by_key = {column.key: column for column in columns}
    chosen = [by_key[key] for key in keys or by_key]
    texts = [place for place, column in enumerate(chosen) if any(isinstance(row[column.key], str) for row in records)]
    rows = [[column.show(row[column.key]).replace("\u00a0", " ") for column in chosen] for row in records]
    return aligned([column.header for column in chosen], rows, texts)


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]], texts: Collection[int] = (0,)) -> str:
    """Align rows below a head, in columns as wide as their widest cell, for a terminal.

    Args:
        texts: columns of text, aligned to the left; the others are numbers, aligned to the right.
    """
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(cell.ljust(w) if place in texts else cell.rjust(w) for place, (cell, w) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in cells)
    )
    return "\n".join(line.rstrip() for line in lines)


def short_name(text: str) -> str:
    """Shorten a name for a narrow table by cutting its middle, as names often differ at their ends."""
    text, half = printable(text), LONGEST_NAME // 2
    return text if len(text) <= LONGEST_NAME else f"{text[: half - 1]}…{text[-half:]}"


def markdown(columns: list[Column], records: Records) -> str:
    """Write a Markdown table, one line per record, in which other people's text stays text."""
    lines = [[column.header for column in columns], ["---"] * len(columns)]
    lines += [[markdown_cell(column.show(record[column.key])) for column in columns] for record in records]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace("\u00a0", " ")
