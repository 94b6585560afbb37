"""Entry point: subcommands, and how errors are shown."""

import argparse
import sys
import traceback

from limelm._version import __version__
from limelm.cli import analyze, bench, convert, data, eval, generate, plan, reproduce, train
from limelm.cli.failures import explain
from limelm.cli.parser import Parser
from limelm.cli.recipe_fields import split_fields
from limelm.cli.streams import discard_stdout, print_error, safe_streams
from limelm.errors import UserError

# These take any field of their recipe as --key value.
RECIPE_COMMANDS = {"reproduce": reproduce, "train": train, "plan": plan}
SUBCOMMANDS = (*RECIPE_COMMANDS.values(), convert, data, generate, eval, analyze, bench)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 1 for a bug, 128 + n when signal n ended it."""
    with safe_streams():
        return _run(_parse(sys.argv[1:] if arguments is None else arguments))


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options; ends the process if they are wrong."""
    parser = Parser(
        prog="limelm",
        description="Layer-Integrated Memory language models: train them side by side, and look inside.",
        epilog="Start with:  limelm reproduce --scale tiny --out demo",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"limelm {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for subcommand in SUBCOMMANDS:
        subcommand.add_parser(subparsers, common)
    for argument in arguments:
        _check_encoding(parser, argument)
    fields: dict[str, str] = {}
    if arguments and arguments[0] in RECIPE_COMMANDS:
        command = subparsers.choices[arguments[0]]
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


def _run(options: argparse.Namespace) -> int:
    try:
        options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
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
