"""Argument types, with the errors that argparse shows."""

import argparse


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def model_names(text: str) -> list[str]:
    """One or more names, separated by commas."""
    return [name for name in text.split(",") if name]
