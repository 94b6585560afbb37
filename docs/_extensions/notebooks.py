"""Offers tutorials and examples as Jupyter notebooks, which are made of the same files as the pages."""

from pathlib import Path

import jupytext
from sphinx.application import Sphinx

FOLDER = "notebooks"
LINK = '<p class="notebook"><a href="{}" download>Download this as a notebook</a></p>\n'


def source_of(app: Sphinx, page: str) -> Path | None:
    """The file of which a page's notebook is made; None where it has none."""
    if page.startswith("docs/tutorials/"):
        return Path(app.srcdir, f"{page}.md")
    path = Path(app.srcdir, page.removeprefix("files/"))
    is_example = page.startswith("files/examples/") and path.suffix == ".py"
    return path if is_example and "# %% [markdown]" in path.read_text(encoding="utf-8") else None


def add_notebook(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Write the notebook of a page, and put a link to it at the page's top."""
    source = source_of(app, page)
    if source is None or app.builder.format != "html":
        return
    target = f"{FOLDER}/{source.parent.name}/{source.stem}.ipynb"
    notebook = jupytext.read(source)
    notebook.metadata.setdefault("kernelspec", {"name": "python3", "display_name": "Python 3"})
    path = Path(app.outdir, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(notebook, path)
    depth = page.count("/")
    context["body"] = LINK.format("../" * depth + target) + context["body"]


def setup(app: Sphinx) -> dict:
    """Connect to Sphinx."""
    app.connect("html-page-context", add_notebook)
    return {"version": "1", "parallel_read_safe": True}
