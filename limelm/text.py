"""Text of other people, made safe for where it is shown: a terminal, a figure, a spreadsheet, a Markdown table."""

import html
import re

# Control characters (C0, DEL, C1), separators of lines and paragraphs, marks that turn the reading direction, and
# halves of surrogate pairs. Joiners stay: scripts and emoji need them.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = re.compile(r"[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def printable(text: str, keep: str = "") -> str:
    r"""The text with control characters written out as escapes, such as `\x1b`, so that none acts on a terminal.

    Args:
        text: of any origin.
        keep: control characters that stay, such as `"\n"`.
    """
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 seed", "2 seeds"."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def has_control_characters(text: str) -> bool:
    """Whether `printable` would change the text."""
    return _CONTROL.search(text) is not None


def safe_cell(text: str) -> str:
    """A CSV cell that no spreadsheet takes for a formula: an apostrophe is put before a character that begins one.

    Numbers, signs included, stay as they are.
    """
    text = printable(text)
    is_formula = _FORMULA.match(text.lstrip()) and not _NUMBER.fullmatch(text.strip())
    return f"'{text}" if is_formula else text


def markdown_cell(text: str) -> str:
    """A cell of a Markdown table, in which raw HTML, links, code and column separators stay plain text."""
    return re.sub(r"([\\|`\[\]])", r"\\\1", html.escape(printable(text), quote=False))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
