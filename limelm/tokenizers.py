"""Read other people's tokenizers without running their code, check their vocabularies, and write tokens as text."""

import functools
import json
import re
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from limelm.errors import UserError

FILES = ("tokenizer_config.json", "tokenizer.json")
BROKEN = "\ufffd"  # what stands for bytes that are no character
BYTE = re.compile("<0x[0-9A-F]{2}>")  # how other vocabularies than byte-level ones name a byte


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer from a folder or the Hugging Face hub.

    Raises:
        UserError: where there is none, it is broken, or it needs Python code of its own, which is never run.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # whatever a broken file may raise in transformers, or in its Rust part
        raise UserError(f"{name_or_path}: no readable tokenizer ({_reason(Path(name_or_path), error)})") from error
    length = tokenizer.model_max_length
    if type(length) not in (int, float) or not length >= 1:
        raise UserError(f"{name_or_path}: no readable tokenizer (model_max_length={length!r} must be 1 or more)")
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int, tokenizer_name: str, model_name: str) -> None:
    """Refuse a tokenizer that makes token ids for which a model has no embedding.

    Args:
        vocab_size: rows of the model's embedding.

    Raises:
        UserError: where it does.
    """
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocab_size:
        raise UserError(
            f"{tokenizer_name}: its tokenizer has token ids up to {largest}, but {model_name} has "
            f"vocab_size={vocab_size}; allowed: the tokenizer that the model was trained with"
        )


def check_tokenizer(
    data: Path, made_with: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase, model_name: str, instead: str
) -> None:
    """Refuse data that were tokenized with another tokenizer than the model's.

    Args:
        data: the folder, said in the error.
        made_with: the data's tokenizer.
        own: the model's.
        model_name: the model, said in the error.
        instead: what to do about it.

    Raises:
        UserError: where the two have different vocabularies.
    """
    if made_with.get_vocab() != own.get_vocab():
        raise UserError(f"{data}: its tokens were made with another tokenizer than {model_name}'s; {instead}")


def _reason(folder: Path, error: Exception) -> str:
    """The reason of an error in a few words, with the file's name if that is known."""
    if "trust_remote_code" in str(error):
        return "it needs Python code of its own, which limelm does not run"
    if folder.is_file():
        return "a file; name the folder that it is in"
    if folder.is_dir() and not any((folder / name).exists() for name in FILES):
        return f"the folder has no {FILES[-1]}"
    for path in (folder / name for name in FILES):
        if path.is_file() and not _is_object(path):
            return f"{path.name} is not a JSON object"
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return lines[0].strip() if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {lines[0]}"


def _is_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8-sig")), dict)
    except (OSError, ValueError, RecursionError):
        return False


def with_bos(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A text that begins with BOS, or else EOS, as every document does in training."""
    bos = tokenizer.bos_token or tokenizer.eos_token or ""
    return text if text.startswith(bos) else bos + text


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Write one token as text; bytes that are only part of a character as `\\xD7`."""
    text = tokenizer.decode([token])
    symbol = tokenizer.convert_ids_to_tokens(token)
    if symbol is None:
        return f"#{token}"
    if text and BROKEN not in text:
        return f" {text}" if symbol.startswith("\u2581") and not text.startswith(" ") else text
    if BYTE.fullmatch(symbol):
        return f"\\x{symbol[3:5]}"
    if all(letter in _byte_of() for letter in symbol):
        return "".join(f"\\x{_byte_of()[letter]:02X}" for letter in symbol)
    return str(symbol)


@functools.cache
def _byte_of() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}
