"""The `limelm` command: parse, call, print.

Each subcommand is a module with its help, `add_arguments` and `run`. They import what they need when they run.
"""

from limelm.cli.main import main

__all__ = ["main"]
