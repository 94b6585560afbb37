"""CITATION.cff names the software and the paper."""

import re
import tomllib
from pathlib import Path

import pytest

from limelm import __version__

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Those of the format's version 1.2.0 that may stand here.
FIELDS = {
    *("cff-version", "message", "type", "title", "abstract", "authors", "version", "date-released", "license"),
    *("keywords", "preferred-citation", "repository-code", "url"),
}


def test_the_software_is_that_of_the_project():
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software" and CITATION["message"]
    assert set(CITATION) <= FIELDS
    assert (CITATION["title"], CITATION["version"]) == (PROJECT["name"], __version__)
    assert CITATION["license"] == PROJECT["license"] and set(CITATION["keywords"]) <= set(PROJECT["keywords"])
    assert CITATION["authors"] == PROJECT["authors"]


def test_the_paper_is_cited():
    paper = CITATION["preferred-citation"]
    assert (
        paper["type"] == "article"
        and paper["title"] == "You Do Not Fully Utilize Transformer's Representation Capacity"
    )
    assert [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]] == [
        "Gleb Gerasimov",
        "Yaroslav Aksenov",
        "Nikita Balagansky",
        "Viacheslav Sinii",
        "Daniil Gavrilov",
    ]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    assert paper["year"] == 2025 and re.search(r"2502\.09245$", paper["journal"])
