"""Tokens as people read them."""

import functools

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

BROKEN = "\ufffd"  # what stands for bytes that are no character


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Write one token as text; bytes that are only part of a character as `\\xD7`."""
    text = tokenizer.decode([token])
    symbol = tokenizer.convert_ids_to_tokens(token)
    if symbol is None:
        return f"#{token}"
    if text and BROKEN not in text:
        return f" {text}" if symbol.startswith("\u2581") and not text.startswith(" ") else text
    if all(letter in _byte_of() for letter in symbol):
        return "".join(f"\\x{_byte_of()[letter]:02X}" for letter in symbol)
    return str(symbol)


@functools.cache
def _byte_of() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}
