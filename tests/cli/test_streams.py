import io
import sys

import pytest
from tqdm import tqdm

from limelm.cli.streams import SafeStream, print_error, safe_streams

HOSTILE = "\x1b]0;pwned\x07 \x9b2J \x7f \u202edrow \u2066x \u2028 a\rb \ud800"


def written(encoding: str, *texts: str, progress: bool = False) -> bytes:
    raw = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(raw, encoding=encoding), progress)
    for text in texts:
        print(text, file=stream, end="")
    stream.flush()
    return raw.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1"])
@pytest.mark.parametrize("progress", [False, True])
def test_nothing_acts_on_the_terminal_and_nothing_fails(encoding, progress):
    shown = written(encoding, HOSTILE, "naïve ☃ 你好 🎉", progress=progress).decode(encoding)
    assert set(shown) & {"\x1b", "\x07", "\x9b", "\x7f", "\u202e", "\u2066", "\u2028", "\ud800"} == set()
    assert "\\x1b]0;pwned\\x07" in shown and "drow" in shown
    assert ("\r" in shown) == progress
    expected = "naïve ☃ 你好 🎉".encode(encoding, "replace").decode(encoding)
    assert shown.endswith(expected)


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_of_all_control_characters_only_line_breaks_and_tabs_pass(code):
    passes = chr(code) in "\n\t"
    assert (chr(code) in written("utf-8", chr(code)).decode()) == passes


def test_nested_progress_bars_move_the_cursor_as_they_did():
    def bars(stream):
        with tqdm(total=1, file=stream, position=0, ascii=True, mininterval=0) as outer:
            with tqdm(total=1, file=stream, position=1, ascii=True, mininterval=0) as inner:
                inner.update()
            outer.update()

    plain, safe = io.StringIO(), io.StringIO()
    bars(plain)
    bars(SafeStream(safe, progress=True))
    assert "\x1b[A" in plain.getvalue()
    assert [c for c in safe.getvalue() if ord(c) < 32] == [c for c in plain.getvalue() if ord(c) < 32]


def test_an_error_begins_on_its_own_line_and_no_bar_comes_after_it(capsys):
    with safe_streams():
        bar = tqdm(range(100), desc="working")
        bar.update()
        print_error("limelm: error: it\nbroke \x1b[2J")
        bar.close()
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert lines[-1] == "limelm: error: it broke \\x1b[2J"


def test_closed_streams_stay_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with safe_streams():
        print("nobody hears it")
        print_error("nor this")
    assert sys.stdout is None and sys.stderr is None
