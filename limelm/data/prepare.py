"""From documents to a prepared folder: hold documents out, tokenise, write shards and the manifest."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from limelm.data.shards import SPLITS, TOKENIZER, Manifest, SplitWriter, new_folder, token_dtype
from limelm.data.tokenization import load_tokenizer, tokenizer_sha256, train_tokenizer
from limelm.errors import UserError

BATCH_CHARACTERS = 2_000_000
TOKENS_PER_SHARD = 2**27


def prepare(
    out: Path,
    documents: Callable[[], Iterable[str]],
    source: str,
    tokenizer: str | None = None,
    vocab_size: int = 4096,
    validation_fraction: float = 0.02,
    max_documents: int | None = None,
    tokens_per_shard: int = TOKENS_PER_SHARD,
) -> Manifest:
    """Write the token shards of `documents` to the new folder `out`: BOS, document, EOS, one document after the other.

    Args:
        documents: makes an iterator of documents; called once to look whether there are any, and once per pass.
        source: what the documents are, for the manifest.
        tokenizer: name or folder of a tokenizer; None trains a byte-level BPE of `vocab_size` entries.
        validation_fraction: the share of documents to hold out, in (0, 1).
        max_documents: stop after so many documents.

    Raises:
        UserError: for bad arguments, documents that cannot be read, or too few of them; nothing is left behind.
    """
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction={validation_fraction} is outside (0, 1)")
    if max_documents is not None and max_documents < 1:
        raise UserError(f"max_documents={max_documents} must be at least 1")

    def splits() -> Iterator[tuple[str, str]]:
        return hold_out(itertools.islice(documents(), max_documents), validation_fraction)

    if next(splits(), None) is None:
        raise UserError(f"{source}: no text to train on and to hold out (only empty documents, or a single line)")
    with new_folder(out) as folder:
        if tokenizer is None:
            training_text = (text for split, text in splits() if split == "train")
            bar = tqdm(training_text, desc="training the tokenizer", unit=" documents")
            trained = train_tokenizer(bar, vocab_size)
        else:
            trained = load_tokenizer(tokenizer)
        trained.save_pretrained(folder / TOKENIZER)
        dtype = token_dtype(len(trained))
        writers = {name: SplitWriter(folder, name, dtype, tokens_per_shard) for name in SPLITS}
        _write_tokens(splits(), trained, writers)
        manifest = Manifest(
            source=source,
            vocab_size=len(trained),
            bos_token_id=trained.bos_token_id,
            eos_token_id=trained.eos_token_id,
            tokenizer_sha256=tokenizer_sha256(folder / TOKENIZER),
            dtype=dtype,
            splits={name: writer.split for name, writer in writers.items()},
        )
        manifest.save(folder)
    return manifest


def hold_out(documents: Iterable[str], fraction: float) -> Iterator[tuple[str, str]]:
    """Name the split, "train" or "validation", of each document; empty documents are left out.

    The split follows from a hash of the text, so copies of a document never stand on both sides. The first document is
    always trained on and the first other one held out, so that neither side is empty; where there is only one document,
    its end is held out.
    """
    documents = (text for text in documents if text.strip())
    first = next(documents, None)
    if first is None:
        return
    copies = 1
    for second in documents:
        if second != first:
            break
        copies += 1
    else:
        lines = first.splitlines(keepends=True)
        cut = min(max(1, round(len(lines) * (1 - fraction))), len(lines) - 1)
        yield from (("train", "".join(lines[:cut])), ("validation", "".join(lines[cut:]))) if cut else ()
        return
    pinned = {_digest(second): "validation", _digest(first): "train"}
    threshold = int(fraction * 2**64)
    for text in itertools.chain(itertools.repeat(first, copies), (second,), documents):
        digest = _digest(text)
        yield pinned.get(digest, "validation" if digest < threshold else "train"), text


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _write_tokens(
    documents: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, writers: dict[str, SplitWriter]
) -> None:
    bos, eos = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    with tqdm(desc="tokenising", unit=" tokens", unit_scale=True) as bar:
        for batch in _batches(documents):
            texts = [text for _, text in batch]
            # A document that spells out a special token means its letters, not the token.
            encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
            for (split, text), ids in zip(batch, encoded, strict=True):
                document = np.array([*bos, *ids, *eos])
                writers[split].add(document, text_bytes=len(text.encode()))
                bar.update(len(document))
        for writer in writers.values():
            writer.close()


def _batches(documents: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Batches of documents of about BATCH_CHARACTERS, so that memory stays bounded whatever their lengths."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document[1])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
