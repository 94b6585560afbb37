"""Standard output and errors that never fail on a character and let no stranger's text act on the terminal."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from limelm.text import printable

#: How tqdm moves the cursor to the line above, where bars are nested.
_LINE_UP = "\x1b[A"


class SafeStream:
    """A text stream that writes control characters as escapes, and `?` for characters that its encoding lacks.

    Args:
        stream: the stream that is written to; it answers everything else that is asked of this one.
        progress: whether progress bars may move the cursor on it.
    """

    def __init__(self, stream: TextIO, progress: bool = False):
        self._stream, self._progress = stream, progress
        self.begins_line = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, made safe; returns its length."""
        if self._progress:
            safe = _LINE_UP.join(printable(part, keep="\n\t\r") for part in text.split(_LINE_UP))
        else:
            safe = printable(text, keep="\n\t")
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(safe.encode(encoding, "replace").decode(encoding))
        if safe:
            self.begins_line = safe.endswith(("\n", "\r"))
        return len(text)


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Replace stdout and stderr by a `SafeStream`, unless they are closed."""
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None:
            stack.enter_context(contextlib.redirect_stdout(SafeStream(sys.stdout)))  # type: ignore[type-var]
        if sys.stderr is not None:
            stack.enter_context(contextlib.redirect_stderr(SafeStream(sys.stderr, progress=True)))  # type: ignore[type-var]
        yield


def print_error(message: str) -> None:
    """Print one line on stderr: control characters as escapes, line breaks as spaces, no progress bar beside it."""
    _close_progress_bars()
    begin = "" if getattr(sys.stderr, "begins_line", True) else "\n"
    print(begin + printable(" ".join(message.split())), file=sys.stderr)


def discard_stdout() -> None:
    """Empty stdout's buffer when nobody reads it any more, so that Python does not try to write it on exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _close_progress_bars() -> None:
    """Close progress bars that an error broke off; they would be drawn once more below it."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
