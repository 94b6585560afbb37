"""Tokenizer of a synthetic task: one token for each word, number or sign."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from limelm.errors import UserError

PAD, EOS = "<pad>", "<eos>"
_TOKEN = r"\n|[.?]|[^\s.?]+"


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the words in the given order, after `<pad>` (id 0) and `<eos>` (id 1).

    A text is cut at spaces; a full stop, a question mark and a line break are tokens of their own. Decoding sets each
    sign as it was found. A word that is not there raises an error.

    Raises:
        UserError: for words that are not different.
    """
    repeated = [word for index, word in enumerate(words) if word in words[:index]]
    if repeated:
        raise UserError(f"words: {repeated[0]!r} stands among them twice; allowed: each word once")
    ids = {word: index for index, word in enumerate((PAD, EOS, *words))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))  # which is no token
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), behavior="removed", invert=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(cleanup=False),  # spaces between words
            decoders.Fuse(),
            *(decoders.Replace(f" {sign}", sign) for sign in (".", "?", "\n")),
            decoders.Replace("\n ", "\n"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )
