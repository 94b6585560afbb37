"""Columns of tables and how their values are written: on the page, in Markdown and on a terminal."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from limelm.records import Records
from limelm.text import markdown_cell, printable

LONGEST_NAME = 22  # characters of a name on a terminal
UNBROKEN = "\u00a0"  # a space at which no line ends

Show = Callable[[Any], str]


def plain(value: Any) -> str:
    """Write a value as it is, in one line; None becomes an empty cell, and markup stays markup."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else str(value).replace(" ", UNBROKEN)


def number(form: str, factor: float = 1, unit: str = "", offset: float = 0) -> Show:
    """Make a function that writes numbers; None and NaN become an empty cell.

    Args:
        form: a format such as "+.3f".
        factor: what numbers are multiplied by.
        unit: what stands behind.
        offset: what is added first.
    """
    unit = unit.replace(" ", UNBROKEN)
    return lambda value: "" if value is None or math.isnan(value) else f"{factor * (value + offset):{form}}{unit}"


thousandths = number(".3f")
percent, share = number(".1f", 100), number(".1f", 100, " %")


@dataclass(frozen=True)
class Column:
    """One column of a table: a field of the records, the words above it, and how its values are written."""

    key: str
    header: str
    show: Show = plain


def with_values(columns: Iterable[Column], records: Records) -> list[Column]:
    """The columns in which any record has a value."""
    return [column for column in columns if any(column.show(row.get(column.key)) for row in records)]


def as_text(columns: Iterable[Column], records: Records) -> str:
    """Write records for a terminal, a line each; columns without any value are left out."""
    shown = with_values(columns, records)
    values = [[row.get(column.key) for row in records] for column in shown]
    texts = [place for place, own in enumerate(values) if any(isinstance(value, str) for value in own)]
    rows = [[column.show(row.get(column.key)).replace(UNBROKEN, " ") for column in shown] for row in records]
    return aligned([column.header for column in shown], rows, texts)


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


def markdown(columns: Sequence[Column], records: Records) -> str:
    """Write a Markdown table, one line per record, in which other people's text stays text."""
    lines = [[column.header for column in columns], ["---"] * len(columns)]
    lines += [[markdown_cell(column.show(record.get(column.key))) for column in columns] for record in records]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace(UNBROKEN, " ")
