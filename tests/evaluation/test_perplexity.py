import math

import pytest
import torch
from transformers import AutoTokenizer

from limelm.data.prepare import prepare
from limelm.errors import UserError
from limelm.evaluation.perplexity import Document, difference, read_documents, score_path, score_text, text_record
from tests.models.variants import main_variants, tiny_model

TEXTS = [f"the cat number {i} sat on the mat, and the dog ate the hat. " * (1 + i % 4) for i in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("perplexity")
    prepare(path / "tokens", lambda: TEXTS, "a test", vocab_size=290, validation_fraction=0.4)
    (path / "text").mkdir()
    for number, text in enumerate(TEXTS[:5]):
        (path / "text" / f"{number}.txt").write_text(text)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder / "tokens" / "tokenizer")


def nats_one_by_one(model, ids, window, stride):
    """Every token's negative log-likelihood, its window found anew for each."""
    total = 0.0
    for place in range(1, len(ids)):
        begin = 0 if place < window else stride * math.ceil((place + 1 - window) / stride)
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin:place]])).logits[0, -1].double()
        total -= float(logits.log_softmax(-1)[ids[place]])
    return total


@main_variants
@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 15), (7, 3), (64, 32)])
def test_every_token_is_scored_once_with_its_window(variant, window, stride):
    model = tiny_model(variant)
    generator = torch.Generator().manual_seed(3)
    documents = [
        Document(torch.randint(1, 97, (size,), generator=generator).tolist(), size) for size in (1, 5, 40, 16, 0, 33)
    ]
    score = score_text(model, documents, 0, window, stride)
    assert score.tokens == [1, 5, 40, 16, 0, 33] and score.bytes == score.tokens
    for document, nats in zip(documents, score.nats, strict=True):
        assert nats == pytest.approx(nats_one_by_one(model, [0, *document.ids], window, stride), abs=2e-3)


def test_without_a_start_token_the_first_token_is_not_scored():
    score = score_text(tiny_model("none"), [Document([5, 6, 7], 3), Document([5], 1)], None, 8, 4)
    assert score.tokens == [2, 0]


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (8, 0), (8, 8)])
def test_windows_that_cannot_be(window, stride):
    with pytest.raises(ValueError, match="window="):
        score_text(tiny_model("none"), [], 0, window, stride)


def test_documents_of_text_and_of_shards(folder, tokenizer):
    of_text = list(read_documents(folder / "text", tokenizer))
    assert [document.bytes for document in of_text] == [len(text.encode()) for text in TEXTS[:5]]
    of_shards = list(read_documents(folder / "tokens", tokenizer))
    ids = {tuple(tokenizer(text, add_special_tokens=False).input_ids): len(text) for text in TEXTS}
    assert of_shards and all(ids[tuple(document.ids)] == document.bytes for document in of_shards)


def test_records_by_hand(folder, tokenizer):
    model = tiny_model("kv", vocab_size=len(tokenizer))
    score = score_path(model, tokenizer, folder / "text", 32, 16, limit=4)
    row = text_record("m", "cats", score, 32, 16)
    assert (row["model"], row["domain"], row["documents"], row["window"], row["stride"]) == ("m", "cats", 4, 32, 16)
    assert row["loss"] == pytest.approx(sum(score.nats) / sum(score.tokens))
    assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
    assert row["bits_per_byte"] == pytest.approx(sum(score.nats) / math.log(2) / sum(map(len, TEXTS[:4])))
    assert row["low"] < row["bits_per_byte"] < row["high"]
    alone = text_record("m", "cats", score_path(model, tokenizer, folder / "text", 32, 16, limit=1), 32, 16)
    assert (alone["low"], alone["high"]) == (None, None)  # one document has no scatter
    assert len(score_path(model, tokenizer, folder / "tokens", 32, 16, limit=3).nats) == 3


def test_differences_are_taken_document_by_document(folder, tokenizer):
    models = [tiny_model(variant, vocab_size=len(tokenizer)) for variant in ("kv", "none")]
    first, second = (score_path(model, tokenizer, folder / "text", 32, 16) for model in models)
    interval = difference(first, second)
    expected = second.bits_per_byte.mean - first.bits_per_byte.mean
    assert interval.mean == pytest.approx(expected) and interval.low < expected < interval.high
    with pytest.raises(ValueError, match="not scored on the same documents"):
        difference(first, score_text(models[0], [Document([5], 1)], 0, 8, 4))


def test_a_domain_without_text_is_refused(folder, tokenizer, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"empty\.txt: no text to score"):
        score_path(tiny_model("none", vocab_size=len(tokenizer)), tokenizer, tmp_path / "empty.txt", 8, 4)


def test_a_loss_that_is_no_number_is_told(folder, tokenizer):
    model = tiny_model("none", vocab_size=len(tokenizer))
    model.lm_head.weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match=r"text: the model's loss on it is not a finite number"):
        score_path(model, tokenizer, folder / "text", 8, 4)
