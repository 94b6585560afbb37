"""Text of strangers, where it is shown."""

import csv
import io
import unicodedata

import pytest

from limelm.text import has_control_characters, markdown_cell, printable, safe_cell


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x202E, 0x2066, 0x061C, 0xD800, 0xDFFF])
def test_control_characters_become_escapes(code):
    text = f"a{chr(code)}b"
    shown = printable(text)
    assert has_control_characters(text) and not has_control_characters(shown)
    assert shown.encode().decode("unicode_escape") == text
    assert printable(text, keep=chr(code)) == text


@pytest.mark.parametrize("text", ["LIMe static, top-p 0.9", "naïve Ω 日本語", "👩‍🔬", "हिन्दी", "\u00a0"])
def test_text_of_any_script_stays(text):
    assert printable(text) == text and unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "  =1", "\t=1", "\r=1", "＝1"])
def test_a_cell_is_no_formula(text):
    cell = safe_cell(text)
    assert cell.startswith("'") or cell.lstrip()[:1] not in "=+-@"
    assert text.strip() in cell.replace("\\x0d", "\r").replace("\\x09", "\t")


@pytest.mark.parametrize("text", ["-1.5", "+3", "1e-05", "-.5", "plain", "a=b", ""])
def test_numbers_and_plain_text_stay_in_a_cell(text):
    assert safe_cell(text) == text
    assert next(csv.reader(io.StringIO(f'"{text}"'))) == [text]


def test_markdown_shows_what_is_written():
    assert markdown_cell("<img src=x onerror=alert(1)>|`[a](b)`") == (
        r"&lt;img src=x onerror=alert(1)&gt;\|\`\[a\](b)\`"
    )
