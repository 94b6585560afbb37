"""Entry point: subcommands, and how errors are shown."""

import argparse
import sys
import traceback
from typing import NoReturn

from limelm._version import __version__
from limelm.cli import analyze, bench, convert, data, eval, generate, plan, reproduce, train
from limelm.cli.recipe_fields import split_fields
from limelm.errors import Stopped, UserError

# These take any field of their recipe as --key value.
RECIPE_COMMANDS = {"reproduce": reproduce, "train": train, "plan": plan}
SUBCOMMANDS = (*RECIPE_COMMANDS.values(), convert, data, generate, eval, analyze, bench)


class Parser(argparse.ArgumentParser):
    """Argument errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 1 for a bug, 128 + n when signal n ended it."""
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
    arguments = sys.argv[1:] if arguments is None else arguments
    fields: dict[str, str] = {}
    if arguments and arguments[0] in RECIPE_COMMANDS:
        command = subparsers.choices[arguments[0]]
        try:
            left, fields = split_fields(command, arguments[1:])
        except UserError as error:
            command.error(str(error))
        arguments = [arguments[0], *left]
    options = parser.parse_args(arguments, argparse.Namespace(fields=fields))
    try:
        options.run(options)
    except UserError as error:
        return _fail(options, str(error), 2)
    except Stopped as stop:
        return _fail(options, str(stop), 128 + stop.signal_number)
    except KeyboardInterrupt:
        return _fail(options, "interrupted; what was finished is kept, and the same command goes on from there", 130)
    except BrokenPipeError:
        return 0
    except OSError as error:  # a full disk, a file where a folder should be, ...
        return _fail(options, str(UserError.from_os_error(error.filename or options.command, error)), 2)
    except Exception as error:
        return _fail(options, f"{type(error).__name__}: {error} (this is a bug; --debug shows where)", 1)
    return 0


def _fail(options: argparse.Namespace, message: str, code: int) -> int:
    if options.debug:
        traceback.print_exc()
    print(f"limelm: error: {' '.join(message.split())}", file=sys.stderr)
    return code
