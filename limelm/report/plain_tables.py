"""Tables as text: for the terminal, and in Markdown."""

from limelm.report.html import Column, Records
from limelm.text import markdown_cell, printable

LONGEST_TEXT = 22  # characters of a cell of text on a terminal


def aligned(rows: list[list[str]], texts: int) -> str:
    """Rows of cells in columns, for a terminal; text that is too long for its column is cut.

    Args:
        texts: how many of the first columns are text, aligned to the left and at most LONGEST_TEXT wide; the others
            are numbers, aligned to the right.
    """
    cells = [
        [_cut(printable(cell)) if place < texts else printable(cell) for place, cell in enumerate(row)] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(cell.ljust(w) if place < texts else cell.rjust(w) for place, (cell, w) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in cells)
    )
    return "\n".join(line.rstrip() for line in lines)


def _cut(text: str) -> str:
    """In the middle: names often differ at their ends."""
    half = LONGEST_TEXT // 2
    return text if len(text) <= LONGEST_TEXT else f"{text[: half - 1]}…{text[-half:]}"


def markdown(columns: list[Column], records: Records) -> str:
    """One line per record; text of other people stays text."""
    lines = [[column.header for column in columns], ["---"] * len(columns)]
    lines += [[markdown_cell(column.show(record[column.key])) for column in columns] for record in records]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace("\u00a0", " ")
