"""The words of pages: titles, texts and columns of tables, from `templates/captions.toml`."""

import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limelm.report.columns import Column, number, plain

TEMPLATES = Path(__file__).parent / "templates"
CONDITION = re.compile(r"\[(\w+)\] ")

#: Facts that texts name: `{tokens:,}` stands for one, and a paragraph after `[is_small]` appears where it is true.
Words = Mapping[str, Any]


@functools.cache
def _captions() -> dict[str, dict[str, Any]]:
    return tomllib.loads(TEMPLATES.joinpath("captions.toml").read_text(encoding="utf-8"))


def paragraphs(name: str, part: str, words: Words) -> list[str]:
    """The paragraphs of a text that appear, with facts in place of their names.

    Args:
        name: of the section or page.
        part: "title", "text", "lead" or "cautions".
    """
    chosen = []
    for paragraph in _captions()[name].get(part, "").strip().split("\n\n"):
        condition = CONDITION.match(paragraph)
        if condition is None or words[condition[1]]:
            chosen.append(CONDITION.sub("", paragraph, count=1).replace("\n", " ").format_map(words))
    return [text for text in chosen if text]


def name_of(key: str) -> str:
    """The words for a setting of a run."""
    return str(_captions()["names"].get(key, key.replace("_", " ")))


def columns(name: str) -> list[Column]:
    """The columns of a section's table; none where it has no table."""
    return [_column(key, *_captions()["columns"][key]) for key in _captions()[name].get("columns", "").split()]


def _column(key: str, header: str, form: str = "", factor: float = 1, unit: str = "", offset: float = 0) -> Column:
    field, _, _variant = key.partition("/")
    return Column(field, header, number(form, factor, unit, offset) if form else plain)
