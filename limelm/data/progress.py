"""A preparation's progress bars and messages, on stderr."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from limelm.data.encode import Mark
from limelm.progress import progress_bar


class Progress:
    """Bars and messages; afterwards `tokens` and `seconds` say how much was tokenized in this run, and in what time."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0

    def say(self, line: str) -> None:
        """Print one line."""
        tqdm.write(line, file=sys.stderr)

    @contextmanager
    def training(self, texts: Iterable[str]) -> Iterator[Iterable[str]]:
        """Yields the documents that a tokenizer is trained on, with a bar that ends before any error is shown."""
        with progress_bar("training the tokenizer", "document", texts, stays=True) as bar:
            yield bar

    @contextmanager
    def tokenizing(self, before: int, last: int | None) -> Iterator[Callable[[int, Mark], None]]:
        """A bar for tokenizing; yields a function to call with each batch's tokens and mark.

        Args:
            before: the tokens of earlier runs.
            last: the number of documents to stop at, where that is known.
        """
        begin = time.perf_counter()
        with progress_bar("tokenizing", "token", stays=True, unit_scale=True, initial=before) as bar:

            def advance(tokens: int, mark: Mark) -> None:
                share = max(mark.share or 0.0, mark.documents / last if last else 0.0)
                if share:
                    bar.total = round((bar.n + tokens) / min(share, 1.0))  # an estimate: the bar shows what is left
                bar.update(tokens)
                self.tokens += tokens
                self.seconds = time.perf_counter() - begin

            yield advance
