"""Tables as text, to be put into other documents: Markdown, and LaTeX for the package booktabs."""

from limelm.report.html import Column, Records


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
