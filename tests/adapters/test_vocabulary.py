"""Tokens that are added before or after attach: the adapter holds them, and its base is the one without them."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from limelm import attach, load_adapter, save_adapter
from limelm.errors import UserError
from limelm.loading import load_model
from tests.families import VOCAB, family_model, tokens, train_routers

families = pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gemma2"])
MORE = VOCAB + 4


@pytest.fixture
def base(family, tmp_path):
    family_model(family).save_pretrained(tmp_path / "base")
    return lambda: AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()


def resized(model, rows=MORE):
    model.resize_token_embeddings(rows)
    return model


WAYS = {
    "after attach": lambda base: resized(attach(base())),
    "before attach": lambda base: attach(resized(base())),
    "twice": lambda base: resized(attach(resized(base(), MORE - 1))),
}


@families
@pytest.mark.parametrize("way", WAYS)
def test_new_tokens_belong_to_the_adapter(family, base, way, tmp_path):
    model = train_routers(WAYS[way](base))
    save_adapter(model, tmp_path / "adapter")
    inputs = torch.cat([tokens(), torch.full((2, 1), MORE - 1)], dim=1)
    wanted = model(inputs).logits
    for loaded in (
        load_adapter(base(), tmp_path / "adapter"),
        load_adapter(resized(base()), tmp_path / "adapter"),
        load_model(tmp_path / "adapter"),
    ):
        assert torch.equal(loaded(inputs).logits, wanted)
        save_adapter(loaded, tmp_path / "again")  # the base is still the one without them
        assert torch.equal(load_adapter(base(), tmp_path / "again")(inputs).logits, wanted)


@pytest.mark.parametrize("family", ["llama"])
def test_a_vocabulary_that_is_neither_is_refused(family, base, tmp_path):
    save_adapter(resized(attach(base())), tmp_path / "adapter")
    for rows in (VOCAB + 1, VOCAB - 1, MORE + 1):
        model = resized(base(), rows)
        before = model(tokens().clamp(max=rows - 1)).logits
        with pytest.raises(UserError, match=rf"resized from {VOCAB} to {MORE} tokens, and the model has {rows}"):
            load_adapter(model, tmp_path / "adapter")
        assert torch.equal(model(tokens().clamp(max=rows - 1)).logits, before)


@pytest.mark.parametrize("family", ["llama"])
def test_another_base_is_refused_with_new_tokens_too(family, base, tmp_path):
    save_adapter(resized(attach(base())), tmp_path / "adapter")
    for other in (family_model(family, seed=1), resized(family_model(family, seed=1))):
        with pytest.raises(UserError, match="with other weights"):
            load_adapter(other, tmp_path / "adapter")


@pytest.mark.parametrize("family", ["llama"])
def test_after_a_failure_the_vocabulary_is_as_it_was(family, base, tmp_path):
    save_adapter(resized(attach(base())), tmp_path / "adapter")
    (tmp_path / "adapter" / "lime_adapter.safetensors").write_bytes(b"x" * 100)
    model = base()
    before = model(tokens()).logits
    with pytest.raises(UserError, match="cannot be read"):
        load_adapter(model, tmp_path / "adapter")
    assert model.config.vocab_size == VOCAB
    assert torch.equal(model(tokens()).logits, before)
