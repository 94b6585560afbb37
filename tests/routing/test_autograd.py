"""The fast routing inside autograd: equal to the reference, repeatable, and correct however its graph is used."""

import pytest
import torch

from limelm.routing import history
from limelm.routing.ops import autograd, source_matrix
from tests.models.naive_copy import naive_copy
from tests.models.variants import assert_same_gradients, gradients, tiny_model, token_ids

BOUNDED = {"routing_sources": {"first": 1, "last": 2}}
CASES = {
    "static": ("static", {}),
    "static_gqa": ("static_gqa", {}),
    "static_bias": ("static_bias", {}),
    "static_top_p": ("static_top_p", {}),
    "static_bounded": ("static", BOUNDED),
    "dynamic": ("dynamic", {}),
    "dynamic_gqa": ("dynamic_gqa", {}),
    "dynamic_bounded": ("dynamic_gqa", BOUNDED),
    "kv": ("kv", {}),
    "kv_gqa": ("kv_gqa", {}),
    "kv_bounded": ("kv_gqa", BOUNDED),
}
cases = pytest.mark.parametrize("case", CASES)
main_cases = pytest.mark.parametrize("case", ["static_gqa", "static_top_p", "dynamic", "kv_gqa", "kv_bounded"])


def make(case: str, backend: str = "chunked", **changes):
    variant, options = CASES[case]
    return tiny_model(variant, routing_backend=backend, **(options | changes)).train()


def loss_of(model, ids=None, **inputs) -> torch.Tensor:
    ids = token_ids() if ids is None else ids
    return model(ids, labels=ids, use_cache=False, **inputs).loss


def gradients_of(model, ids=None) -> dict[str, torch.Tensor]:
    loss_of(model, ids).backward()
    return gradients(model)


def present_gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.fixture(params=[None, 3000], ids=["one_chunk", "many_chunks"])
def chunk_size(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(source_matrix, "CPU_CHUNK_BYTES", request.param)
    source_matrix.chunk_bytes.cache_clear()
    yield
    source_matrix.chunk_bytes.cache_clear()


@cases
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-6)], ids=["fp32", "fp64"])
def test_chunked_equals_reference(case, dtype, tolerance, chunk_size):
    """In float64 what remains is rounding before the norms, which are float32 by definition."""
    results = []
    for backend in ("chunked", "reference"):
        model = make(case, backend).to(dtype).train()
        results.append((model(token_ids(tokens=13)).logits.detach(), gradients_of(model, token_ids(tokens=13))))
    (logits, actual), (expected_logits, expected) = results
    torch.testing.assert_close(logits, expected_logits, atol=tolerance * expected_logits.abs().max().item(), rtol=0)
    assert_same_gradients(actual, expected, tolerance)


@cases
def test_evaluation_equals_reference(case, chunk_size):
    """Without gradients, and so with what top-p prunes for good left out."""
    chunked, reference = (make(case, backend).eval() for backend in ("chunked", "reference"))
    with torch.no_grad():
        for tokens in (1, 2, 13):
            ids = token_ids(tokens=tokens)
            torch.testing.assert_close(chunked(ids).logits, reference(ids).logits, atol=1e-5, rtol=1e-5)


@main_cases
def test_gradients_repeat_to_the_bit(case, chunk_size):
    first, second = (gradients_of(make(case)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@cases
def test_memory_is_written_before_it_is_read(case, monkeypatch):
    expected = gradients_of(make(case))
    empty_rows, gradient_buffer = history.empty_rows, autograd.gradient_buffer

    def fresh_buffer(buffer, *rest):
        made, add = gradient_buffer(buffer, *rest)
        return (made if add else made.fill_(torch.nan)), add

    monkeypatch.setattr(history, "empty_rows", lambda *args: empty_rows(*args).fill_(torch.nan))
    monkeypatch.setattr(autograd, "gradient_buffer", fresh_buffer)
    assert_same_gradients(gradients_of(make(case)), expected, tolerance=1e-6)
    with torch.no_grad():
        assert make(case).eval()(token_ids()).logits.isfinite().all()


@main_cases
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in_order", "reversed"])
def test_interleaved_forwards(case, order):
    model = make(case)
    batches = [token_ids(seed=1), token_ids(seed=2, batch=3, tokens=6)]
    expected = [gradients_of(model, batch) for batch in batches]
    losses = [loss_of(model, batch) for batch in batches]
    for which in order:
        losses[which].backward()
        assert_same_gradients(gradients(model), expected[which], tolerance=1e-6)


@main_cases
def test_three_backwards_through_one_graph(case):
    model = make(case)
    expected = gradients_of(model)
    loss = loss_of(model)
    for retain_graph in (True, True, False):
        loss.backward(retain_graph=retain_graph)
        actual = gradients(model)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@main_cases
def test_two_losses_on_one_graph(case):
    """Two backwards from different layers through shared history."""
    model = make(case)
    wanted = []
    for which in ("early", "late", "both"):
        hidden_states = model(token_ids(), output_hidden_states=True, use_cache=False).hidden_states
        early, late = hidden_states[2].tanh().sum(), hidden_states[4].tanh().sum()
        if which == "both":
            early.backward(retain_graph=True)
            late.backward()
        else:
            (early if which == "early" else late).backward()
        wanted.append(present_gradients(model))
        model.zero_grad()
    early, late, both = wanted
    assert_same_gradients(both, {name: late[name] + early.get(name, 0) for name in late}, tolerance=1e-6)


@cases
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_loss_on_an_intermediate_hidden_state(case, depth):
    """The layers above take no part, although they have read the history."""
    results = []
    for backend in ("chunked", "reference"):
        model = make(case, backend)
        hidden_states = model(token_ids(), output_hidden_states=True, use_cache=False).hidden_states
        hidden_states[depth].tanh().square().sum().backward()
        results.append({name: gradient for name, gradient in present_gradients(model).items() if gradient.any()})
    assert_same_gradients(*results, tolerance=2e-5)
    layers = {name.split(".")[2] for name in results[0] if ".layers." in name}
    assert layers == {str(layer) for layer in range(depth)}


@cases
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_only_upper_layers_are_trained(case, depth):
    """Embedding and lower layers are frozen: their representations are read, but have no gradient."""
    model = make(case, tie_word_embeddings=False)
    expected = gradients_of(model)
    for name, parameter in model.named_parameters():
        is_lower = "embed_tokens" in name or (".layers." in name and int(name.split(".")[2]) < depth)
        parameter.requires_grad_(not is_lower)
    loss_of(model).backward()
    actual = present_gradients(model)
    assert actual.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert_same_gradients(actual, {name: expected[name] for name in actual}, tolerance=1e-6)


@main_cases
def test_only_the_input_embeddings_are_wanted(case):
    """All parameters frozen, gradients of `inputs_embeds`: attribution and prompt tuning."""
    found = []
    for backend in ("chunked", "reference"):
        model = make(case, backend).requires_grad_(False)
        embedded = model.model.embed_tokens(token_ids()).requires_grad_()
        loss = model(inputs_embeds=embedded, labels=token_ids(), use_cache=False).loss
        (gradient,) = torch.autograd.grad(loss, embedded)
        found.append({"embedded": gradient})
    assert_same_gradients(*found, tolerance=2e-5)


@main_cases
def test_one_parameter_at_a_time(case):
    model = make(case)
    expected = gradients_of(model)
    for name, parameter in model.named_parameters():
        if "layers.2.self_attn" in name or "routing_layernorm" in name:
            (gradient,) = torch.autograd.grad(loss_of(model), parameter)
            assert_same_gradients({name: gradient}, {name: expected[name]}, tolerance=1e-6)


@cases
def test_forwards_without_gradients_are_the_same(case):
    model = make(case)
    expected = model(token_ids()).logits
    assert expected.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(model(token_ids()).logits, expected, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(model(token_ids()).logits, expected, atol=1e-5, rtol=1e-5)
    model.requires_grad_(False)
    logits = model(token_ids()).logits
    assert not logits.requires_grad
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@main_cases
def test_training_goes_on_after_inference_mode(case):
    """Nothing made in inference mode is kept for later."""
    model = make(case)
    expected = gradients_of(model)
    with torch.inference_mode():
        model.eval()(token_ids())
    assert_same_gradients(gradients_of(model.eval()), expected, tolerance=1e-6)
    with torch.no_grad():
        model(token_ids())
    assert_same_gradients(gradients_of(model.train()), expected, tolerance=1e-6)


def squared_gradient_norm(logits: torch.Tensor, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of the squared norm of the gradients of a loss on the logits."""
    probe = torch.randn(logits.shape, dtype=logits.dtype, generator=torch.Generator().manual_seed(5))
    names = [name for name in weights if "layers.1" in name or "routing_layernorm" in name or "embed" in name]
    first = torch.autograd.grad((logits.tanh() * probe).sum(), list(weights.values()), create_graph=True)
    norm = sum(gradient.square().sum() for gradient in first)
    return dict(zip(names, torch.autograd.grad(norm, [weights[name] for name in names]), strict=True))


@pytest.mark.parametrize("case", ["static_gqa", "static_top_p", "dynamic", "kv_gqa"])
def test_gradients_of_gradients_by_reference(case):
    model = make(case, "reference", num_hidden_layers=3, attn_implementation="eager").double().train()
    naive = naive_copy(model)
    ids = token_ids(batch=1, tokens=4)
    actual = squared_gradient_norm(model(ids).logits, dict(model.named_parameters()))
    expected = squared_gradient_norm(naive.logits(ids), naive.weights)
    assert_same_gradients(actual, expected, tolerance=1e-4)


@cases
def test_gradients_of_gradients_are_refused_by_chunked(case):
    model = make(case, attn_implementation="eager")
    with pytest.raises(RuntimeError, match="routing_backend='reference'"):
        torch.autograd.grad(loss_of(model), list(model.parameters()), create_graph=True)


@cases
@pytest.mark.parametrize("depth", [1, 2])
def test_gradients_of_gradients_of_lower_layers_are_refused_or_right(case, depth):
    """Also where the loss is below the first layer that routes."""
    found = []
    for backend in ("chunked", "reference"):
        model = make(case, backend, attn_implementation="eager").double().train()
        embedded = model.model.embed_tokens(token_ids()).detach().requires_grad_()
        states = model(inputs_embeds=embedded, output_hidden_states=True, use_cache=False).hidden_states[depth]
        try:
            (first,) = torch.autograd.grad(states.tanh().sum(), embedded, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), embedded)
        except RuntimeError as error:
            assert backend == "chunked" and "routing_backend='reference'" in str(error)
            return
        found.append({"embedded": second})
    assert_same_gradients(*found, tolerance=1e-4)
