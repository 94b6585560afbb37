"""`limelm --print-completion SHELL`: a script by which a shell completes commands, options, recipes and folders."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limelm.cli.types import existing_path, model_name, recipe_name
from limelm.errors import UserError
from limelm.extras import import_extra

SHELLS = ("bash", "zsh", "tcsh")


class PrintCompletion(argparse.Action):
    """The option: it prints the script of the shell that it names, and ends the command, as --version does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, option: str | None = None) -> None:
        """Print the script."""
        try:
            script = completion_script(parser, shell)
        except UserError as error:
            parser.error(str(error))
        print(script)
        parser.exit()


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Write the script for `bash`, `zsh` or `tcsh`.

    Raises:
        UserError: where the extra `completion` is not installed.
    """
    shtab = import_extra("shtab", "completion")
    from limelm.recipes.files import recipe_names

    completes = {
        recipe_name: _recipes(recipe_names()),
        model_name: shtab.DIRECTORY,
        Path: shtab.DIRECTORY,
        existing_path: shtab.FILE,
    }
    for action in _actions(parser):
        kind = getattr(action.type, "__wrapped__", None)
        if kind in completes:
            action.complete = completes[kind]  # type: ignore[attr-defined]
    script: str = shtab.complete(parser, shell)
    return script


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All actions of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _recipes(names: list[str]) -> dict[str, Any]:
    """Functions of each shell that complete to the recipes of the package and to .toml files."""
    words = " ".join(names)
    bash = f"""
_limelm_recipes() {{
  compgen -W "{words}" -- "$1"
  compgen -f -X '!*.toml' -- "$1"
  compgen -d -S / -- "$1"
}}
"""
    zsh = f"""
_limelm_recipes() {{
  _alternative 'recipes:recipe:({words})' 'files:file:_files -g "*.toml"'
}}
"""
    return {
        "bash": "_limelm_recipes",
        "zsh": "_limelm_recipes",
        "tcsh": f"`echo {words}`",
        "preamble": {"bash": bash, "zsh": zsh},
    }
