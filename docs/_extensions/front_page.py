"""Begins the site's front page with README.md, whose links start from the folder above."""

import os
from pathlib import Path

from sphinx.application import Sphinx

from dev.package import relink


def begin_with_readme(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put README.md before the text of the front page."""
    if docname == app.config.root_doc:
        readme = Path(app.srcdir, "README.md")
        folder = Path(docname).parent
        linked = relink(readme.read_text(encoding="utf-8"), lambda target, _: os.path.relpath(target, folder))
        source[0] = f"{linked}\n{source[0]}"
        app.env.note_dependency(readme)


def setup(app: Sphinx) -> dict:
    """Connect to Sphinx."""
    app.connect("source-read", begin_with_readme)
    return {"version": "1", "parallel_read_safe": True}
