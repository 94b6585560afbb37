"""Text full of close words, its shards, and tiny checkpoints with their tokenizer: what `limelm analyze` takes."""

import random
from pathlib import Path

from transformers import AutoTokenizer

from limelm.data.prepare import prepare
from tests.models.variants import tiny_model

CHECKPOINTS = {
    "llama-like": "none",
    "hc": "hc_dynamic",
    "static": "static",
    "top-p": "static_top_p",
    "dynamic": "dynamic_gqa",
    "kv": "kv_gqa",
    "dense": "dense_former",
    "blocks": "attention_residuals",
}
SENTENCES = ("the cat is here", "the dogs are there", "one day it was late", "all of them were gone", "so it goes on")


def write_text(path: Path, sentences: int) -> Path:
    order = random.Random(0)
    path.write_text(". ".join(order.choice(SENTENCES) for _ in range(sentences)))
    return path


def write_study(folder: Path) -> Path:
    """`folder/tokens`, `folder/text.txt`, and a folder per checkpoint."""
    texts = [" ".join(random.Random(i).choices(SENTENCES, k=60)) for i in range(40)]
    prepare(folder / "tokens", lambda: texts, "a test corpus", vocab_size=304, validation_fraction=0.3)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokens" / "tokenizer")
    for name, variant in CHECKPOINTS.items():
        model = tiny_model(variant, vocab_size=len(tokenizer), max_position_embeddings=32, bos_token_id=0)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_text(folder / "text.txt", 300)
    return folder
