"""Entry point: subcommands, and how errors are shown."""

import argparse
import sys
import traceback
import warnings
from typing import Any

from limelm._version import __version__
from limelm.cli import analyze, bench, convert, data, demo, eval, explore, generate, plan, recipes, reproduce, train
from limelm.cli.completion import SHELLS, PrintCompletion
from limelm.cli.failures import explain
from limelm.cli.output import Output, as_json, quiet_stdout
from limelm.cli.parser import Parser, add_command
from limelm.cli.recipe_fields import split_fields
from limelm.cli.streams import discard_stdout, print_error, safe_streams
from limelm.errors import UserError
from limelm.extras import require_extra

COMMANDS = {
    "demo": demo,
    "recipes": recipes,
    "reproduce": reproduce,
    "train": train,
    "plan": plan,
    "convert": convert,
    "data prepare": data,
    "generate": generate,
    "eval": eval,
    "analyze": analyze,
    "explore": explore,
    "bench": bench,
}
EPILOG = """\
Start with:

  limelm demo

Results are written to stdout, with --json as one JSON document; progress, notes and errors to stderr.
docs/command_line.md lists the keys of these documents.

exit codes:
  0      everything is done
  1      an error in limelm itself; --debug shows where
  2      wrong input, or something is missing; one line on stderr says what
  128+n  ended by signal n, such as 130 by Ctrl-C; finished work is kept
"""
TAKE_FIELDS = ("demo", "reproduce", "train", "plan")  # any field of their recipe as --key value


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 1 for a bug, 128 + n when signal n ended it."""
    with safe_streams():
        return _run(_parse(sys.argv[1:] if arguments is None else arguments))


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command line, and those of its subcommands by their names."""
    parser = Parser(
        prog="limelm",
        description="Layer-Integrated Memory language models: train them side by side, and look inside them.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"limelm {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help="print a script that completes commands, options and recipes: bash, zsh or tcsh",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    commands = {}
    for name, command in COMMANDS.items():
        *group, word = name.split()
        place = _add_group(subparsers, group[0], command.HELP) if group else subparsers
        commands[name] = add_command(place, word, command)
    return parser, commands


def _add_group(subparsers: Any, name: str, help: str) -> Any:
    group = subparsers.add_parser(name, help=help, epilog=f"See limelm {name} ACTION --help.")
    return group.add_subparsers(dest="action", required=True, metavar="ACTION")


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options; ends the process if they are wrong."""
    parser, commands = make_parser()
    for argument in arguments:
        _check_encoding(parser, argument)
    fields: dict[str, str] = {}
    if arguments and arguments[0] in TAKE_FIELDS:
        command = commands[arguments[0]]
        try:
            left, fields = split_fields(command, arguments[1:])
        except UserError as error:
            command.error(str(error))
        arguments = [arguments[0], *left]
    return parser.parse_args(arguments, argparse.Namespace(fields=fields))


def _check_encoding(parser: Parser, argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:
        parser.error(f"argument {argument!a}: not UTF-8 text in this locale ({sys.getfilesystemencoding()})")


def _quieten() -> None:
    """Keep other libraries' progress bars and notices out of the output; errors say what matters."""
    import huggingface_hub
    import transformers

    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="torch")  # about its own files and formats


def _print(output: Output | None, is_json: bool) -> None:
    """Print a command's results; None where it has printed them itself, or another process does."""
    if output is not None:
        print(as_json(output.facts) if is_json else output.text)
    if sys.stdout is not None:
        sys.stdout.flush()
    if output is not None and output.failure is not None:
        raise output.failure


def _run(options: argparse.Namespace) -> int:
    try:
        _quieten()
        if options.needs is not None:
            require_extra(options.needs, options.command)
        with quiet_stdout(options.json):
            output = options.run(options)
        _print(output, options.json)
    except BrokenPipeError:
        discard_stdout()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        message, code = explain(error, options.command, options.memory_settings)
        if options.debug:
            traceback.print_exc()
        print_error(f"limelm: error: {message}")
        return code
    return 0
