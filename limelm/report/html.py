"""One self-contained HTML page of sections, with each figure and table as a file beside it."""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from limelm.files import write_text
from limelm.records import Records
from limelm.report.columns import Column
from limelm.report.figures.palette import Palette
from limelm.report.output import published, save_figure, write_csv
from limelm.text import printable

TEMPLATES = Path(__file__).parent / "templates"
REPORT, FIGURES = "report.html", "figures"
MARKED = 4096  # characters at a page's beginning, in which its fingerprint stands


@dataclass
class Section:
    """A part of the page: text, and a figure or a table with its records.

    Attributes:
        name: of its files, and its anchor on the page.
        text: a paragraph, or several; alone, they introduce the parts that follow.
        is_part: of the section before; not in the page's list of contents.
        shown: the rows of the table, where it shows others than all records.
    """

    name: str
    title: str
    text: str | list[str]
    records: Records = field(default_factory=list)
    figure: Figure | None = None
    columns: list[Column] = field(default_factory=list)
    shown: Records | None = None
    is_part: bool = False
    svg: str | None = None

    @property
    def paragraphs(self) -> list[str]:
        """The text as paragraphs."""
        return [self.text] if isinstance(self.text, str) else self.text


def write_page(
    out: Path,
    sections: list[Section],
    *,
    title: str,
    lead: str,
    palette: Palette,
    tiles: Mapping[str, tuple[str, str]],
    cautions: list[str],
    facts: Mapping[str, Iterable[tuple[str, Any]]],
    missing: Iterable[str] = (),
    made_of: str = "",
) -> Path:
    """Write `out/report.html` and `out/figures/*.png, *.svg, *.csv`.

    Args:
        tiles: by the label of each model, a value in large letters and a note on it.
        cautions: what the report does not show.
        facts: how it was made, at the end of the page: names and values below a heading each. Paths of this machine
            are cut down to their last names.
        missing: what could not be measured, and why.
        made_of: the fingerprint of what the page tells of, for `is_made_of`.

    Returns:
        The page's path.
    """
    folder = out / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        if section.records:
            write_csv(folder / f"{section.name}.csv", section.records)
        if section.figure is not None:
            section.svg = base64.b64encode(save_figure(section.figure, folder / section.name)).decode()
    _remove_earlier(folder, {section.name for section in sections if section.records})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_as_text,
    )
    page = environment.get_template("report.html").render(
        title=published(title),
        lead=published(lead),
        tiles=[(label, palette[label], *tile) for label, tile in tiles.items()],
        cautions=published(cautions),
        missing=published(list(missing)),
        made_of=made_of,
        sections=sections,
        facts={heading: [(key, published(value)) for key, value in entries] for heading, entries in facts.items()},
        style=Markup(TEMPLATES.joinpath("report.css").read_text(encoding="utf-8")),
    )
    path = out / REPORT
    write_text(path, page)
    return path


def is_made_of(page: Path, made_of: str) -> bool:
    """Whether a page was made of the results with this fingerprint."""
    try:
        with page.open(encoding="utf-8", errors="replace") as stream:
            return f'content="{made_of}"' in stream.read(MARKED)
    except OSError:
        return False


def file_names(labels: Iterable[str]) -> dict[str, str]:
    """A file name for each label, no two alike."""
    names: dict[str, str] = {}
    for label in labels:
        name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[-60:] or "model"
        taken = set(names.values())
        turns = (name if turn == 1 else f"{name}-{turn}" for turn in range(1, len(taken) + 2))
        names[label] = next(free for free in turns if free not in taken)
    return names


def _as_text(value: Any) -> Any:
    """Make text safe for the page: control characters are written out, except in markup."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _remove_earlier(folder: Path, names: set[str]) -> None:
    """Remove figures and tables of an earlier report that this one does not have."""
    for path in folder.iterdir():
        if path.suffix in (".csv", ".png", ".svg") and path.stem not in names:
            path.unlink()
