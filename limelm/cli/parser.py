"""The argument parser of all subcommands: one-line errors, checks of every value, help that fits the window."""

import argparse
import difflib
import functools
import math
import re
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from limelm.cli.options import add_shared
from limelm.cli.streams import print_error
from limelm.cli.types import any_float, any_text

LONGEST_ARGUMENT = 4096  # characters; the longest path that Linux takes


class HelpFormatter(argparse.HelpFormatter):
    """Fill paragraphs to the window's width; an indented line stays a line, and is wrapped if it is too long."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = re.split(r"\n{2,}", text.strip("\n"))
        return "\n\n".join("\n".join(_fill(paragraph, width)) for paragraph in paragraphs)


class Parser(argparse.ArgumentParser):
    """The argument parser: it refuses values that no argument can mean, in one line.

    Refused are empty texts (a shell variable that is not set), overlong ones, and numbers that are not finite. Only the
    type `any_text` takes everything.
    """

    def __init__(self, **options: Any):
        super().__init__(**{"formatter_class": HelpFormatter, "allow_abbrev": False, **options})

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        kind = options.get("type", str)
        takes_value = options.get("action", "store") in ("store", "append")
        if takes_value and kind is not any_text:
            options["type"] = _checked(kind)
        return super().add_argument(*names, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; an unknown one is refused by the command that it is given to."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, n=1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        print_error(f"{self.prog}: error: {message} (see {self.prog} --help)")
        self.exit(2)


def add_command(subparsers: Any, name: str, command: Any) -> Parser:
    """Declare a subcommand.

    Args:
        subparsers: what `add_subparsers` gave.
        name: the word on the command line.
        command: a module with `HELP` (one line for the list of commands), `DESCRIPTION`, `EPILOG` (lists and examples),
            `NEEDS` (the extra without which it does not begin, or None), `add_arguments` and `run`; if `run` returns an
            `Output`, also `KEYS`, those of its facts; and `SAVES_MEMORY`, options that make it need less, for the error
            when memory is short.
    """
    words = {"help": command.HELP, "description": command.DESCRIPTION, "epilog": command.EPILOG}
    parser: Parser = subparsers.add_parser(name, **words)
    memory_settings = getattr(command, "SAVES_MEMORY", None)
    parser.set_defaults(run=command.run, needs=command.NEEDS, memory_settings=memory_settings, json=False)
    command.add_arguments(parser)
    if hasattr(command, "KEYS"):
        add_shared(parser, "--json", f", with the keys {', '.join(command.KEYS)}")
    add_shared(parser, "--debug")
    return parser


def check_text(text: str) -> str:
    """Check that a text can name something: neither empty nor overlong.

    Raises:
        argparse.ArgumentTypeError: where it is empty or overlong.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    if len(text) > LONGEST_ARGUMENT:
        raise argparse.ArgumentTypeError(f"has {len(text):,} characters; at most {LONGEST_ARGUMENT:,} are allowed")
    return text


def _checked(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap an argument type so that it gets only texts that can name something, and gives only finite numbers."""

    @functools.wraps(kind, updated=())
    def convert(text: str) -> Any:
        value = kind(check_text(text))
        if isinstance(value, float) and kind is not any_float and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
        return value

    return convert


def _fill(paragraph: str, width: int) -> list[str]:
    lines: list[str] = []
    flowing: list[str] = []
    for line in [*paragraph.splitlines(), ""]:
        if line and not line.startswith(" ") and not line.endswith(":"):
            flowing.append(line)
            continue
        lines += textwrap.wrap(" ".join(flowing), width, break_on_hyphens=False)
        flowing = []
        if line:
            lines += _fill_line(line, width)
    return lines


def _fill_line(line: str, width: int) -> list[str]:
    """Wrap an indented line: a name and its meaning, or a command and what it is an example of."""
    if len(line) <= width:
        return [line]
    left, gap, right = re.fullmatch(r"(\s*\S.*?)(?:(\s{2,})(.*))?", line).groups(default="")  # type: ignore[union-attr]
    if re.match(r"\s*(limelm|torchrun) ", line):
        together = re.sub(r"( --\S+) (?!-)", "\\1\0", left)  # an option stays with its value
        parts = textwrap.wrap(
            together, width - 2, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False
        )
        command = " \\\n".join(parts).replace("\0", " ").splitlines()
        return command + ([f"{' ' * 6}({right})"] if right else [])
    hanging = " " * (len(left + gap) if gap else 4)
    return textwrap.wrap(line, width, subsequent_indent=hanging, break_on_hyphens=False)
