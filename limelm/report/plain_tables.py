"""Tables as text: for the terminal, and in Markdown."""

from collections.abc import Collection, Iterable, Sequence

from limelm.records import Records
from limelm.report.html import Column
from limelm.text import markdown_cell, printable

LONGEST_NAME = 22  # characters of a name on a terminal


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
