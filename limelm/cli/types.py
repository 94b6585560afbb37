"""Argument types, with the errors that argparse shows."""

import argparse
import ipaddress
import math
import re
from collections.abc import Callable
from pathlib import Path

LARGEST = 2**31 - 1  # no size on the command line means more
LONGEST_NAME = 253
HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII | re.IGNORECASE)


def any_text(text: str) -> str:
    """Any text, even an empty one; all other types are for texts that name something (limelm.cli.parser)."""
    return text


def any_float(text: str) -> float:
    """Any number, even NaN, for an option whose range the command checks itself."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_short(text)!r} is not a number") from None


def integer(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """The type of integers from `least` to `most`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{_short(text)!r} is not an integer") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{_short(text)} must be at least {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{_short(text)} must be at most {most}")
        return value

    convert.__name__ = f"integer from {least} to {most}"
    return convert


def positive_number(most: float = math.inf) -> Callable[[str], float]:
    """The type of numbers above 0, up to `most`."""

    def convert(text: str) -> float:
        value = any_float(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} must be more than 0")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} must be at most {most:g}")
        return value

    convert.__name__ = f"number up to {most}"
    return convert


positive_int = integer(1)
seed = integer(0, 2**32 - 1)  # that every random generator takes


def listed(text: str) -> list[str]:
    """One or more different names, separated by commas."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return names


def existing(otherwise: str) -> Callable[[str], Path]:
    """The type of files and folders that are there; others are refused at once, not after seconds of imports.

    Args:
        otherwise: what is said of a path where there is nothing.
    """

    def convert(text: str) -> Path:
        path = Path(text)
        try:
            path.stat()
        except FileNotFoundError:
            raise argparse.ArgumentTypeError(f"{text}: {otherwise}") from None
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
        return path

    return convert


existing_path = existing("no such file or folder")


def model_name(text: str) -> str:
    """An existing folder, or a possible name on the Hugging Face hub: NAME or OWNER/NAME."""
    is_path = text.startswith((".", "/", "~")) or text.count("/") != text.strip("/").count("/") or text.count("/") > 1
    if is_path:
        existing("no such folder")(text)
    return text


def ip_address(text: str) -> str:
    """An IPv4 address."""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_short(text)!r} is no IPv4 address; allowed: such as 0.0.0.0") from None


def host_name(text: str) -> str:
    """The name of a machine or a site, without scheme, port and path."""
    if len(text) > LONGEST_NAME or not HOST_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{_short(text)!r} is no name such as OWNER-SPACE.hf.space")
    return text.lower()


def recipe_name(text: str) -> str:
    """The name of a recipe, or an existing .toml file."""
    if text.endswith(".toml"):
        existing("no such file")(text)
    return text


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."
