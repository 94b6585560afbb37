"""Shows the repository's files on the site: a link to code leads to a page with that code.

Pages link to files beside them, such as `../limelm/routing/routers.py`, which works where a repository is browsed. Here
each such file becomes a page of its own, with its code highlighted. A link to a folder leads to the folder's page
(`README.md`) or, where it has none, becomes plain text.
"""

from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx

PICTURES = {".png", ".svg", ".csv"}


def page_of(path: str) -> str:
    """The name of the page that shows a file."""
    return f"files/{path}"


def link_files(app: Sphinx, doctree: nodes.document) -> None:
    """Turn downloads of text files into links to their pages, and note which pages are to be made."""
    env = app.env
    if not hasattr(env, "repository_files"):
        env.repository_files = {}
    wanted = env.repository_files[env.docname] = set()
    for node in list(doctree.findall(addnodes.download_reference)):
        path, _ = env.relfn2path(node["reftarget"], env.docname)
        if Path(path).suffix in PICTURES:
            continue
        wanted.add(path)
        node.replace_self(link_to(page_of(path), node))
    for node in list(doctree.findall(addnodes.pending_xref)):
        path, place = env.relfn2path(node["reftarget"] or ".", env.docname)
        if node["reftype"] == "myst" and Path(place).is_dir():
            readme = f"{path}/README"
            node.replace_self(link_to(readme, node) if readme in env.found_docs else node.children)


def link_to(page: str, node: nodes.Element) -> nodes.reference:
    """A link to a page of the site, in the place of another kind of link; its address comes later."""
    return nodes.reference("", "", *node.children, internal=True, repository_page=page)


def resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give the links their address, which depends on the page that they stand on."""
    for link in doctree.findall(nodes.reference):
        if "repository_page" in link:
            link["refuri"] = app.builder.get_relative_uri(docname, link.attributes.pop("repository_page"))


def make_pages(app: Sphinx):
    """Yield a page for every file that is linked to."""
    for path in sorted(set().union(*getattr(app.env, "repository_files", {}).values())):
        text = Path(app.srcdir, path).read_text(encoding="utf-8")
        try:
            lexer = get_lexer_for_filename(path)
        except ClassNotFound:
            lexer = TextLexer()
        code = highlight(text, lexer, HtmlFormatter(cssclass="highlight", linenos="inline"))
        yield page_of(path), {"title": path, "body": f"<h1>{path}</h1>\n{code}"}, "page.html"


def forget(app: Sphinx, env, docname: str) -> None:
    """Forget what a page linked to, as it is read again."""
    getattr(env, "repository_files", {}).pop(docname, None)


def setup(app: Sphinx) -> dict:
    """Connect to Sphinx."""
    app.connect("doctree-read", link_files)
    app.connect("doctree-resolved", resolve_links)
    app.connect("html-collect-pages", make_pages)
    app.connect("env-purge-doc", forget)
    return {"version": "1", "parallel_read_safe": False}
