"""`make docs` builds the site without a warning, runs its tutorials, and every link in it leads somewhere."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import limelm

ROOT = Path(limelm.__file__).parents[1]
TUTORIALS = sorted(path.stem for path in ROOT.glob("docs/tutorials/*.md"))
SOURCES = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.glob("docs/**/*.md"))

pytestmark = pytest.mark.skipif(not find_spec("myst_nb"), reason="needs the tools of the extra 'docs'")


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in ("script", "img") and "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and "stylesheet" in values.get("rel", ""):
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it, with nothing kept from an earlier time."""
    work = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-b", "html"]
    kept = ["-d", work / "doctrees", "-D", f"nb_execution_cache_path={work / 'cache'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *kept, "-c", ROOT / "docs", ROOT, work / "site"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return work / "site"


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def check_links(site: Path, pages: dict[str, Page], name: str) -> None:
    """Every link of a page leads to a file of the site, and to a place in it."""
    for link in pages[name].links:
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        target, place = urldefrag(unquote(link))
        file = ((site / name).parent / target if target else site / name).resolve()
        assert file.exists(), f"{name}: {link}"
        other = file.relative_to(site.resolve()).as_posix()
        assert not place or other not in pages or place in pages[other].places, f"{name}: {link}"


def check_loaded(site: Path, pages: dict[str, Page], name: str) -> None:
    """A page loads nothing from elsewhere, and what it loads is there."""
    for loaded in pages[name].loaded:
        assert not loaded.startswith(("http:", "https:", "//")), f"{name}: {loaded}"
        assert ((site / name).parent / loaded.split("?")[0]).exists(), f"{name}: {loaded}"


@pytest.mark.parametrize("check", [check_links, check_loaded])
@pytest.mark.parametrize("page", SOURCES)
def test_a_page_links_to_what_is_there_and_loads_nothing_from_elsewhere(site, pages, page, check):
    check(site, pages, f"{page}.html")


def test_so_do_pages_that_are_generated(site, pages):
    generated = pages.keys() - {f"{page}.html" for page in SOURCES}
    assert len(generated) > 40
    for name in generated:
        check_links(site, pages, name)
        check_loaded(site, pages, name)


def test_tutorials_have_run(site):
    assert len(TUTORIALS) == 5
    for name in TUTORIALS:
        text = (site / "docs/tutorials" / f"{name}.html").read_text(encoding="utf-8")
        assert "cell_output" in text and "Traceback" not in text, name


def test_search_finds_pages_docstrings_and_commands(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for wanted in ("docs/tutorials/own_model", "docs/api/routing", "limelm.routing", "Attention Residuals"):
        assert wanted in index, wanted
    commands = (site / "docs/command_line.html").read_text(encoding="utf-8")
    assert "usage: limelm reproduce" in commands and "usage: limelm data prepare" in commands


def test_code_that_pages_link_to_is_shown(site):
    text = (site / "files/limelm/routing/routers.py.html").read_text(encoding="utf-8")
    assert "StaticRouter" in text and 'class="highlight"' in text
