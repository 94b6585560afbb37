"""The directive `command-help`, which shows what `limelm COMMAND --help` prints."""

import os

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from limelm.cli.main import make_parser

WIDTH = "100"


class CommandHelp(SphinxDirective):
    """Shows the help of the command that is its argument, such as `data prepare`; without one, of `limelm` itself."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the help as a literal block."""
        parser, commands = make_parser()
        text = (commands[self.arguments[0]] if self.arguments else parser).format_help()
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict:
    """Connect to Sphinx."""
    os.environ["COLUMNS"] = WIDTH
    app.add_directive("command-help", CommandHelp)
    return {"version": "1", "parallel_read_safe": True}
