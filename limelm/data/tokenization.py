"""Tokenizers: train a byte-level BPE on documents, load one, and tell whether two are the same."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from limelm.errors import UserError
from limelm.files import file_sha256
from limelm.tokenizers import load_tokenizer

BOS, EOS = "<bos>", "<eos>"
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
VOCAB_SIZES = range(len(ALPHABET) + 2, 2**20 + 1)  # that can be trained


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of `vocab_size` entries, special tokens and the 256 bytes included.

    A prompt is encoded with <bos> before it, as every document stands in the training data.

    Raises:
        UserError: for a `vocab_size` outside `VOCAB_SIZES`, or documents with too few pairs to fill it.
    """
    check_vocab_size(vocab_size)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[BOS, EOS], initial_alphabet=ALPHABET, show_progress=False
    )
    bpe.train_from_iterator(documents, trainer)
    if bpe.get_vocab_size() < vocab_size:
        raise UserError(
            f"the text is too short for a tokenizer of {vocab_size} entries (it gives {bpe.get_vocab_size()}); "
            "give more text, a smaller vocabulary, or a tokenizer"
        )
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=EOS)


def check_vocab_size(vocab_size: int) -> None:
    """Refuse a vocabulary that has no room for the bytes, or that no text fills.

    Raises:
        UserError: for a size outside `VOCAB_SIZES`.
    """
    if vocab_size not in VOCAB_SIZES:
        raise UserError(f"vocab_size={vocab_size} must be from {VOCAB_SIZES[0]:,} to {VOCAB_SIZES[-1]:,}")


def load_document_tokenizer(name_or_path: str) -> PreTrainedTokenizerFast:
    """A tokenizer from a folder or the hub, with BOS and EOS (one may stand for the other, as in GPT-2).

    Raises:
        UserError: where there is none that can be read, it has no tokenizer.json, or neither BOS nor EOS.
    """
    tokenizer = load_tokenizer(name_or_path)
    if not tokenizer.is_fast:
        raise UserError(f"{name_or_path}: its tokenizer has no tokenizer.json (a slow tokenizer)")
    if tokenizer.vocab_size == 0:
        raise UserError(f"{name_or_path}: its tokenizer has an empty vocabulary")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(f"{name_or_path}: its tokenizer has neither a BOS nor an EOS token")
    if tokenizer.bos_token_id is None:
        tokenizer.bos_token = tokenizer.eos_token
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = tokenizer.bos_token
    return tokenizer


def tokenizer_sha256(folder: Path) -> str:
    """The hash of a saved tokenizer's `tokenizer.json`, which holds all that encoding depends on.

    Raises:
        UserError: where there is no such file.
    """
    path = folder / "tokenizer.json"
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file")
        return file_sha256(path)
    except OSError as error:
        raise UserError.from_os_error(path, error) from error
