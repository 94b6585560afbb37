"""What a forward returns, and the ways to ask for it."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from tests.models.variants import TINY, all_variants, tiny_model, token_ids

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@all_variants
@torch.no_grad()
def test_hidden_states(variant):
    model = tiny_model(variant)
    outputs = model.model(token_ids(batch=2, tokens=7), output_hidden_states=True)
    assert len(outputs.hidden_states) == TINY["num_hidden_layers"] + 1
    assert all(states.shape == (2, 7, TINY["hidden_size"]) for states in outputs.hidden_states)
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)
    assert model.model(token_ids()).hidden_states is None
    from_head = model(token_ids(batch=2, tokens=7), output_hidden_states=True).hidden_states
    assert all(torch.equal(*pair) for pair in zip(from_head, outputs.hidden_states, strict=True))


@all_variants
@torch.no_grad()
def test_hidden_states_asked_for_in_the_config(variant):
    model = tiny_model(variant, output_hidden_states=True)
    assert len(model(token_ids()).hidden_states) == TINY["num_hidden_layers"] + 1


@all_variants
@torch.no_grad()
def test_selected_hidden_states(variant):
    """Newer versions of transformers take a list of layers; -1 is the last, as for Llama."""
    llama = LlamaForCausalLM(LlamaConfig(**TINY))
    if len(llama(token_ids(), output_hidden_states=[0, -1]).hidden_states or ()) != TINY["num_hidden_layers"] + 1:
        pytest.skip("this version of transformers cannot select the last layer")
    model = tiny_model(variant)
    expected = model(token_ids(), output_hidden_states=True).hidden_states
    selected = model(token_ids(), output_hidden_states=[0, -1]).hidden_states
    assert [i for i, states in enumerate(selected) if states is not None] == [0, TINY["num_hidden_layers"]]
    assert torch.equal(selected[0], expected[0])
    assert torch.equal(selected[-1], expected[-1])


@all_variants
@torch.no_grad()
def test_attentions(variant):
    model = tiny_model(variant)
    model.set_attn_implementation("eager")
    attentions = model(token_ids(batch=2, tokens=7), output_attentions=True).attentions
    assert len(attentions) == TINY["num_hidden_layers"]
    for weights in attentions:
        assert weights.shape == (2, TINY["num_attention_heads"], 7, 7)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        assert not weights.triu(diagonal=1).any()
        assert (weights.tril() > 0).sum() == weights.tril().count_nonzero() == 2 * 4 * 28


@all_variants
@torch.no_grad()
def test_attention_implementations_agree(variant):
    model = tiny_model(variant)
    assert model.config._attn_implementation == "sdpa"
    sdpa = model(token_ids()).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(token_ids()).logits, sdpa, **CLOSE)


@all_variants
def test_loss_is_the_shifted_cross_entropy(variant):
    model = tiny_model(variant)
    input_ids, labels = token_ids(), token_ids()
    labels[0, :4] = -100
    outputs = model(input_ids, labels=labels)
    terms = [
        cross_entropy(outputs.logits[b, t], labels[b, t + 1])
        for b in range(2)
        for t in range(8)
        if labels[b, t + 1] != -100
    ]
    torch.testing.assert_close(outputs.loss, torch.stack(terms).mean())
    summed = model(input_ids, labels=labels, num_items_in_batch=100).loss
    torch.testing.assert_close(summed, torch.stack(terms).sum() / 100)
    assert model(input_ids).loss is None


@all_variants
@torch.no_grad()
def test_embeddings_instead_of_tokens(variant):
    model = tiny_model(variant)
    embedded = model.get_input_embeddings()(token_ids())
    assert torch.equal(model(inputs_embeds=embedded).logits, model(token_ids()).logits)


@all_variants
@torch.no_grad()
def test_logits_to_keep(variant):
    model = tiny_model(variant)
    full = model(token_ids()).logits
    assert full.shape == (2, 9, TINY["vocab_size"])
    torch.testing.assert_close(model(token_ids(), logits_to_keep=3).logits, full[:, -3:])
    positions = torch.tensor([0, 4, 5])
    torch.testing.assert_close(model(token_ids(), logits_to_keep=positions).logits, full[:, positions])


@all_variants
@torch.no_grad()
def test_only_differences_of_positions_count(variant):
    """RoPE is relative: shifted positions change nothing, stretched ones do."""
    model = tiny_model(variant)
    positions = torch.arange(9)[None]
    plain = model(token_ids()).logits
    assert torch.equal(model(token_ids(), position_ids=positions).logits, plain)
    torch.testing.assert_close(model(token_ids(), position_ids=positions + 20).logits, plain, atol=1e-4, rtol=1e-3)
    assert (model(token_ids(), position_ids=2 * positions).logits - plain).abs().max() > 1e-2


@all_variants
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_documents_are_separate(variant, attention):
    model = tiny_model(variant)
    model.set_attn_implementation(attention)
    documents = [token_ids(batch=1, tokens=tokens, seed=tokens) for tokens in (4, 1, 6)]
    packed = model(
        torch.cat(documents, dim=1),
        position_ids=torch.cat([torch.arange(document.shape[1]) for document in documents])[None],
        attention_mask=None,
        use_cache=False,
    ).logits
    separate = torch.cat([model(document, use_cache=False).logits for document in documents], dim=1)
    torch.testing.assert_close(packed, separate, **CLOSE)


@all_variants
def test_exactly_one_kind_of_input(variant):
    model = tiny_model(variant)
    embedded = model.get_input_embeddings()(token_ids())
    for inputs in ({}, {"input_ids": token_ids(), "inputs_embeds": embedded}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**inputs)


@all_variants
@torch.no_grad()
def test_tuple_outputs(variant):
    model = tiny_model(variant)
    outputs = model(token_ids(), labels=token_ids(), use_cache=False, return_dict=False)
    assert isinstance(outputs, tuple)
    expected = model(token_ids(), labels=token_ids())
    assert torch.equal(outputs[0], expected.loss)
    assert torch.equal(outputs[1], expected.logits)
    hidden = model.model(token_ids(), return_dict=False)
    assert torch.equal(hidden[0], model.model(token_ids()).last_hidden_state)


@all_variants
@torch.no_grad()
def test_cache_follows_the_config(variant):
    assert tiny_model(variant)(token_ids()).past_key_values is not None
    assert tiny_model(variant, use_cache=False)(token_ids()).past_key_values is None


@all_variants
def test_embeddings_can_grow(variant):
    model = tiny_model(variant)
    before = model(token_ids()).logits
    model.resize_token_embeddings(TINY["vocab_size"] + 7, mean_resizing=False)
    after = model(token_ids(), labels=token_ids())
    assert after.logits.shape[-1] == TINY["vocab_size"] + 7
    torch.testing.assert_close(after.logits[..., :-7], before)
    assert after.loss.isfinite()


@all_variants
@torch.no_grad()
def test_a_forward_leaves_no_trace(variant):
    """Nothing of one forward (history, pruning, positions) reaches the next."""
    model = tiny_model(variant)
    first = model(token_ids()).logits
    model(token_ids(batch=3, tokens=20, seed=9))
    assert torch.equal(model(token_ids()).logits, first)
