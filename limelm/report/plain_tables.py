"""Tables as text: for the terminal, and to be put into other documents (Markdown, and LaTeX for booktabs)."""

from limelm.report.html import Column, Records
from limelm.text import printable

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
    """One line per record."""
    lines = [[column.header for column in columns], ["---"] * len(columns)]
    lines += [[_plain(column.show(record[column.key])) for column in columns] for record in records]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def booktabs(head: list[str], *blocks: list[list[str]]) -> str:
    """A tabular of cells in LaTeX, with a rule between blocks of rows."""
    parts = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", _row(head)]
    for block in blocks:
        parts += [r"\midrule", *map(_row, block)]
    return "\n".join([*parts, r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex(text: str) -> str:
    """Text whose letters mean nothing else to LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "_%&#${}" else letter) for letter in text)


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\u00a0", " ")
