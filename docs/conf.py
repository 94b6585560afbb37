"""How the documentation site is built (`make docs`): Sphinx, Markdown by MyST, tutorials that run while it builds.

The source folder is the repository, so that links between pages, results and code are those of the repository.
"""

import os
import sys
from pathlib import Path

import limelm

DOCS = Path(__file__).parent
sys.path += [str(DOCS / "_extensions"), str(DOCS.parent)]
# Tutorials call `limelm`; threads that wait for each other would make minutes of seconds.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "limelm"
author = "The limelm maintainers"
version = release = limelm.__version__
language = "en"

root_doc = "docs/index"
include_patterns = ["docs/**", "examples/README.md", "results/**", "dev/LOG.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = ["docs/_*"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "front_page",
    "repository_files",
    "command_help",
    "notebooks",
]

myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS.parent / ".docs-cache")
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # bars of progress

suppress_warnings = ["misc.highlighting_failure"]  # IPython's lexer knows no command of two lines

# Docstrings write code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"limelm {limelm.__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}


def mark_code(app, what, name, obj, options, lines) -> None:
    """Mark indented blocks of a docstring as code: they follow a line that ends in a colon, as in Markdown."""
    for i in range(len(lines) - 2):
        ends, blank, code = lines[i : i + 3]
        if ends.endswith(":") and not ends.endswith("::") and not blank.strip() and code.startswith("    "):
            lines[i] += ":"


def setup(app) -> None:
    """Connect to Sphinx."""
    app.connect("autodoc-process-docstring", mark_code, priority=900)
