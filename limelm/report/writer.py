"""Reports as files: one self-contained HTML page of sections, with each figure and table as a file beside it."""

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from limelm.files import partial_of, write_text
from limelm.records import Record, Records
from limelm.report.captions import TEMPLATES, Words, columns, paragraphs
from limelm.report.columns import with_values
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import STYLE
from limelm.text import has_control_characters, printable, safe_cell

REPORT, FIGURES = "report.html", "figures"
MARKED = 4096  # characters at a page's beginning, in which its fingerprint stands
DPI = 160
MARGIN = 0.06  # inches
# In a text: a path from the root or from home, not a part of a URL or of a relative path.
_PART = r"""[^\s/\\:"'<>|*?,;()]"""
PATH = re.compile(rf"(?<![\w.~:/\\-])(?:~|[A-Za-z]:)?[/\\](?:{_PART}+[/\\])+(?P<name>{_PART}*)")


@dataclass(frozen=True)
class Section:
    """A part of the page, which appears where there are records for it; its text and table stand in `captions.toml`.

    Attributes:
        name: of its files, its anchor on the page, and the records that it shows.
        draw: draws its figure; with neither figure nor table, it introduces the parts that follow.
        of: the records that it shows, where they have another name.
        where: which of these it shows; by default all.
        caption: its caption, where that has another name.
        words: further facts for its text, from the records that are shown.
        rows: the rows of its table, where they are not the records themselves.
        is_part: whether it belongs to the section before, and is not in the page's list of contents.
    """

    name: str
    draw: Callable[[Records, Palette], Figure] | None = None
    of: str = ""
    where: Callable[[Record], bool] | None = None
    caption: str = ""
    words: Callable[[Records], Words] | None = None
    rows: Callable[[Records], Records] | None = None
    is_part: bool = False


def write_page(
    out: Path,
    sections: Iterable[Section],
    records: Mapping[str, Records],
    palette: Palette,
    words: Words,
    *,
    title: str,
    lead: str,
    tiles: Mapping[str, tuple[str, str]],
    cautions: Sequence[str],
    facts: Mapping[str, Iterable[tuple[str, Any]]],
    missing: Iterable[str] = (),
    made_of: str = "",
) -> Path:
    """Write `out/report.html` and `out/figures/*.png, *.svg, *.csv`.

    Args:
        records: by name; sections without records are left out.
        words: facts for the sections' texts.
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
    shown = [part for section in sections if (part := _fill(section, folder, records, palette, words))]
    for path in folder.iterdir():  # figures and tables of an earlier report that this one does not have
        if path.suffix in (".csv", ".png", ".svg") and path.stem not in {part["name"] for part in shown}:
            path.unlink()
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
        sections=shown,
        facts={heading: [(key, published(value)) for key, value in entries] for heading, entries in facts.items()},
        style=Markup(TEMPLATES.joinpath("report.css").read_text(encoding="utf-8")),
    )
    path = out / REPORT
    write_text(path, page)
    return path


def _fill(
    section: Section, folder: Path, records: Mapping[str, Records], palette: Palette, words: Words
) -> dict[str, Any] | None:
    """Write a section's files, and give what the template shows of it; None where it has no records."""
    found = [row for row in records.get(section.of or section.name, ()) if section.where is None or section.where(row)]
    if not found:
        return None
    caption, words = section.caption or section.name, {**words, **(section.words(found) if section.words else {})}
    rows = section.rows(found) if section.rows else found
    table = with_values(columns(caption), rows)
    svg = b""
    if section.draw or columns(caption):
        write_csv(folder / f"{section.name}.csv", found)
    if section.draw:
        svg = save_figure(section.draw(found, palette), folder / section.name)
    return {
        "name": section.name,
        "title": paragraphs(caption, "title", words)[0],
        "is_part": section.is_part,
        "paragraphs": paragraphs(caption, "text", words),
        "svg": base64.b64encode(svg).decode(),
        "columns": [(column, column.header.format_map(words)) for column in table],
        "rows": rows,
    }


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
        turns = (name if turn == 1 else f"{name}-{turn}" for turn in range(1, len(names) + 2))
        names[label] = next(free for free in turns if free not in names.values())
    return names


def _as_text(value: Any) -> Any:
    """Make text safe for the page: control characters are written out, except in markup."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def save_figure(figure: Figure, path: Path) -> bytes:
    """Write a figure as PNG and SVG, never half-written; returns the SVG."""
    formats: dict[str, dict[str, Any]] = {"png": {}, "svg": {"metadata": {"Date": None}}}
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()  # lay it out once
        figure.set_layout_engine(None)  # it stays as it is
        drawn = figure.get_tightbbox().padded(MARGIN)  # all of it, and no more
        drawings = {}
        for name, options in formats.items():
            stream = io.BytesIO()
            figure.savefig(stream, format=name, dpi=DPI, bbox_inches=drawn, **options)
            drawings[name] = stream.getvalue()
            _write_bytes(path.with_name(f"{path.name}.{name}"), drawings[name])
    return drawings["svg"]


def _write_bytes(path: Path, content: bytes) -> None:
    partial = partial_of(path)
    partial.unlink(missing_ok=True)  # what a kill left, or a link that somebody put there
    with partial.open("xb") as stream:
        stream.write(content)
    partial.replace(path)


def write_csv(path: Path, records: Records) -> None:
    """Write a CSV, one line per record, empty where it has not what others have; lists are written as JSON."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(dict.fromkeys(key for row in records for key in row)))
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in records)
    write_text(path, stream.getvalue())


def write_json(path: Path, content: Any) -> None:
    """Write facts and numbers as JSON, without paths of this machine (see `published`)."""
    write_text(path, _as_json(published(content), indent=1) + "\n")


def published(content: Any) -> Any:
    """Make plain values publishable: absolute paths are cut down to their last name, wherever they are."""
    if isinstance(content, dict):
        return {published(key): published(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [published(value) for value in content]
    if not isinstance(content, str):
        return content
    if Path(content).is_absolute() and not re.search(r"[:\n]|.$(?<=/)", content):  # a path that may hold spaces
        return Path(content).name
    return PATH.sub(lambda match: match["name"], content)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return _as_json(value)
    return safe_cell(value) if isinstance(value, str) else value


def _as_json(content: Any, indent: int | None = None) -> str:
    """Write JSON with letters as they are, or with escapes only if a control character is among them."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    has_controls = has_control_characters(text.replace("\n", ""))
    return json.dumps(content, indent=indent) if has_controls else text
