"""Cached decoding is the full forward, however the tokens arrive."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from tests.models.variants import all_variants, main_variants, tiny_model, token_ids

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
CHUNKS = {"one_by_one": [1] * 11, "chunks": [4, 1, 3, 2, 1], "prefill": [9, 1, 1], "at_once": [11]}


def empty_cache(kind: str, model):
    if kind == "static":
        return StaticCache(config=model.config, max_cache_len=16)
    return DynamicCache(config=model.config)


@all_variants
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@torch.no_grad()
def test_cached_logits_equal_the_full_forward(variant, chunks, cache):
    model = tiny_model(variant)
    input_ids = token_ids(tokens=11)
    expected = model(input_ids, use_cache=False)
    assert expected.past_key_values is None

    cache = empty_cache(cache, model)
    logits = [model(chunk, past_key_values=cache, use_cache=True).logits for chunk in input_ids.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), expected.logits, **TOLERANCE)
    assert int(cache.get_seq_length()) == 11


@all_variants
@torch.no_grad()
def test_the_cache_has_llamas_size(variant):
    """Per layer one key and one value per key/value head and token, nothing else."""
    model = tiny_model(variant)
    cache = model(token_ids(batch=2, tokens=7), use_cache=True).past_key_values
    expected = (2, model.config.num_key_value_heads, 7, model.config.head_dim)
    assert len(cache.layers) == model.config.num_hidden_layers
    assert all(layer.keys.shape == layer.values.shape == expected for layer in cache.layers)


@all_variants
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_left_padding_changes_nothing(variant, attention):
    model = tiny_model(variant)
    model.set_attn_implementation(attention)
    short, long = token_ids(batch=1, tokens=5, seed=3), token_ids(batch=1, tokens=9, seed=4)
    input_ids = torch.cat((torch.cat((torch.zeros(1, 4, dtype=torch.long), short), dim=1), long))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, :4] = 0
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)

    padded = model(input_ids, attention_mask=attention_mask, position_ids=position_ids)
    torch.testing.assert_close(padded.logits[:1, 4:], model(short).logits, **TOLERANCE)
    torch.testing.assert_close(padded.logits[1:], model(long).logits, **TOLERANCE)

    next_ids = token_ids(batch=2, tokens=1, seed=5)
    stepped = model(
        next_ids,
        attention_mask=torch.cat((attention_mask, torch.ones(2, 1, dtype=torch.long)), dim=1),
        position_ids=position_ids[:, -1:] + 1,
        past_key_values=padded.past_key_values,
    ).logits
    for row, prompt in enumerate((short, long)):
        full = model(torch.cat((prompt, next_ids[row : row + 1]), dim=1)).logits
        torch.testing.assert_close(stepped[row], full[0, -1:], **TOLERANCE)


@all_variants
@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_with_and_without_cache(variant, num_beams):
    model = tiny_model(variant)
    settings = {"max_new_tokens": 8, "do_sample": False, "num_beams": num_beams, "pad_token_id": 0}
    prompt = token_ids(batch=2, tokens=5)
    cached = model.generate(prompt, use_cache=True, **settings)
    assert cached.shape == (2, 13)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **settings))


@main_variants
def test_generation_of_a_left_padded_batch(variant):
    model = tiny_model(variant)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    short, long = token_ids(batch=1, tokens=3, seed=3), token_ids(batch=1, tokens=6, seed=4)
    padded = torch.cat((torch.cat((torch.zeros(1, 3, dtype=torch.long), short), dim=1), long))
    mask = torch.ones_like(padded)
    mask[0, :3] = 0
    together = model.generate(padded, attention_mask=mask, **settings)
    assert torch.equal(together[0, 6:], model.generate(short, **settings)[0, 3:])
    assert torch.equal(together[1], model.generate(long, **settings)[0])


@main_variants
def test_generation_with_a_static_cache(variant):
    model = tiny_model(variant)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "disable_compile": True}
    prompt = token_ids(batch=2, tokens=5)
    static = model.generate(prompt, cache_implementation="static", **settings)
    assert torch.equal(static, model.generate(prompt, **settings))


@all_variants
@torch.no_grad()
def test_the_future_is_not_seen(variant):
    model = tiny_model(variant)
    input_ids = token_ids(batch=1, tokens=9)
    changed = input_ids.clone()
    changed[0, 6:] = (changed[0, 6:] + 1) % 97
    before, after = model(input_ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=1e-6)
    assert (before[:, 6:] - after[:, 6:]).abs().amax(dim=-1).min() > 1e-3


@all_variants
@torch.no_grad()
def test_sequences_of_a_batch_do_not_mix(variant):
    model = tiny_model(variant)
    input_ids = token_ids(batch=3)
    together = model(input_ids).logits
    alone = torch.cat([model(row[None]).logits for row in input_ids])
    torch.testing.assert_close(together, alone, **TOLERANCE)
