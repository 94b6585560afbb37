"""Habits of HF's models that its common tests, its generation and people's scripts count on."""

import inspect
from typing import Unpack

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, GenerationMixin
from transformers.utils.generic import TransformersKwargs

from limelm.models.decoder import CACHE
from tests.models.variants import (
    all_variants,
    causal_lm_class,
    gradients,
    main_variants,
    tiny_config,
    tiny_model,
    token_ids,
)


@main_variants
def test_what_is_read_off_the_classes(variant):
    model = tiny_model(variant)
    assert GenerationMixin in type(model).__bases__
    assert model.can_generate()
    for part in (model, model.model):
        assert inspect.signature(type(part).forward).parameters["kwargs"].annotation == Unpack[TransformersKwargs]


@all_variants
def test_hidden_states_lie_in_the_graph(variant):
    """Of Hyper-Connections the embeddings and the last: each of the streams between goes on by itself."""
    model = tiny_model(variant)
    outputs = model(token_ids(), output_hidden_states=True, labels=token_ids())
    first = outputs.hidden_states[0]
    assert torch.equal(first, model.model.embed_tokens(token_ids()))
    found = torch.autograd.grad(outputs.loss, outputs.hidden_states, allow_unused=True, retain_graph=True)
    is_hyper_connection = "hc" in variant
    assert [gradient is not None for gradient in found] == [
        not is_hyper_connection or i in (0, len(found) - 1) for i in range(len(found))
    ]
    first.retain_grad()
    outputs.loss.backward()
    torch.testing.assert_close(first.grad, found[0])
    assert first.grad[:, :-1].abs().min() > 0  # the last token's has no label


@all_variants
def test_embeddings_that_are_given_are_hidden_state_0(variant):
    model = tiny_model(variant)
    embeddings = model.model.embed_tokens(token_ids()).detach().requires_grad_()
    outputs = model(inputs_embeds=embeddings, labels=token_ids(), output_hidden_states=True)
    assert outputs.hidden_states[0] is embeddings
    outputs.loss.backward()
    assert embeddings.grad[:, :-1].abs().min() > 0


@all_variants
@torch.no_grad()
def test_the_cache_by_the_name_of_the_installed_transformers(variant):
    """Whatever `generate` calls it, the cache is read, filled and returned."""
    model, cache = tiny_model(variant), DynamicCache()
    expected = model(token_ids(), use_cache=False).logits
    first = model(token_ids()[:, :5], **{CACHE: cache}, use_cache=True)
    assert getattr(first, CACHE) is cache
    assert first.to_tuple()[1] is cache
    rest = model(token_ids()[:, 5:], **{CACHE: cache}, use_cache=True).logits
    torch.testing.assert_close(torch.cat((first.logits, rest), 1), expected, atol=2e-5, rtol=1e-4)


@main_variants
def test_a_recomputation_does_not_write_to_the_cache(variant):
    model = tiny_model(variant).train()
    model(token_ids(), labels=token_ids()).loss.backward()
    expected = gradients(model)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    cache = DynamicCache()
    model(token_ids(), labels=token_ids(), **{CACHE: cache}).loss.backward()
    assert cache.get_seq_length() == 0
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


@all_variants
@pytest.mark.parametrize("with_gradients", [False, True])
def test_flops_are_counted_on_meta(variant, with_gradients):
    """As many as on a CPU, forward and backward."""
    counts = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            config = tiny_config(variant, attn_implementation="eager")  # the kernels of a CPU are counted otherwise
            model = causal_lm_class(config)(config)
            ids = torch.zeros(2, 9, dtype=torch.long)
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(with_gradients):
            loss = model(ids, labels=ids).loss
            if with_gradients:
                loss.backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
