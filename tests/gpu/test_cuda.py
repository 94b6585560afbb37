"""What only a CUDA device can show: the kernels for real, bfloat16 models, compiled and captured steps."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limelm import LimeConfig, LimeForCausalLM
from limelm.planning.peak_memory import peak_training_memory, saved_for_backward
from limelm.routing.ops.backends import why_not_triton
from limelm.routing.ops.chunked import ComputeBackend
from tests.models.variants import all_variants, assert_same_gradients, gradients, tiny_model, token_ids

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_triton = pytest.mark.skipif(why_not_triton("cuda") is not None, reason=str(why_not_triton("cuda")))

SHAPE = {
    "vocab_size": 1000,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
ROUTINGS = ["static", "dynamic", "kv"]
BACKENDS = ["chunked", pytest.param("triton", marks=needs_triton)]


def lime(routing: str, backend: str, dtype=torch.bfloat16, **changes) -> LimeForCausalLM:
    torch.manual_seed(0)
    config = LimeConfig(routing=routing, routing_backend=backend, **(SHAPE | changes))
    return LimeForCausalLM(config).to("cuda", dtype).train()


def loss_and_gradients(model, ids) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), gradients(model)


def error(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Of all gradients together, relative."""
    flat = [torch.cat([found[name].flatten().float() for name in expected]) for found in (actual, expected)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(1000, (4, 500), device="cuda", generator=torch.Generator("cuda").manual_seed(0))


@pytest.fixture
def exact_products():
    """float32 products without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@all_variants
def test_cuda_equals_the_cpu(variant, exact_products):
    model = tiny_model(variant).train()
    expected_loss, expected = loss_and_gradients(model, token_ids())
    loss, actual = loss_and_gradients(copy.deepcopy(model).cuda(), token_ids().cuda())
    torch.testing.assert_close(loss.cpu(), expected_loss, rtol=1e-4, atol=1e-4)
    assert_same_gradients({name: value.cpu() for name, value in actual.items()}, expected, tolerance=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_backends_equal_the_reference_in_float32(routing, backend, ids, exact_products):
    expected_loss, expected = loss_and_gradients(lime(routing, "reference", torch.float32), ids)
    loss, actual = loss_and_gradients(lime(routing, backend, torch.float32), ids)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert error(actual, expected) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_bfloat16_is_as_near_to_float32_as_the_reference_is(routing, backend, ids):
    _, expected = loss_and_gradients(lime(routing, "reference", torch.float32), ids)
    _, reference = loss_and_gradients(lime(routing, "reference"), ids)
    _, actual = loss_and_gradients(lime(routing, backend), ids)
    assert error(actual, expected) < 1.2 * error(reference, expected) + 0.005


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_gradients_are_the_same_to_the_bit_every_time(routing, backend, ids):
    model = lime(routing, backend)
    (_, first), (_, second) = (loss_and_gradients(model, ids) for _ in range(2))
    differing = [name for name in first if "router" in name and not torch.equal(first[name], second[name])]
    assert not differing


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "n", "D"), [(32, 16, 2048), (8, 16, 2048), (8, 128, 256), (3, 5, 72)])
def test_kernels_equal_the_products(dtype, heads, n, D, exact_products):
    from limelm.routing.ops.triton import TritonBackend

    torch.manual_seed(0)
    tokens, tolerance = 192, 2e-2 if dtype == torch.bfloat16 else 1e-4
    buffer, gradient = (torch.randn(n, tokens * D + 64, device="cuda", dtype=dtype)[:, : tokens * D] for _ in range(2))
    A = torch.randn(heads, n, device="cuda", dtype=dtype).softmax(dim=-1)
    P = torch.randn(heads * n, D, device="cuda", dtype=dtype) / D**0.5
    grad = torch.randn(heads, tokens, D, device="cuda", dtype=dtype)
    results = []
    for compute in (ComputeBackend(), TritonBackend()):
        rows, per_token = gradient.clone(), gradient.clone()
        Z = compute.mix_rows(A, buffer)
        grad_A = compute.mix_rows_backward(A, buffer, grad.view(heads, -1), [(slice(0, n), rows)], True)
        weights, Z_token = compute.mix_tokens(P, buffer, heads)
        grad_logits = compute.mix_tokens_backward(P, buffer, weights, grad, [(slice(0, n), per_token)], True)
        results.append([Z, grad_A, rows, weights, Z_token, grad_logits, per_token])
    for actual, expected in zip(results[1], results[0], strict=True):
        assert (actual.float() - expected.float()).norm() <= tolerance * expected.float().norm()


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_compiled_step_equals_the_eager_one(routing, ids):
    model = lime(routing, "chunked", num_hidden_layers=3)
    loss, expected = loss_and_gradients(model, ids)
    compiled = torch.compile(model, fullgraph=True)
    compiled_loss = compiled(ids, labels=ids, use_cache=False).loss
    compiled_loss.backward()
    torch.testing.assert_close(compiled_loss.detach(), loss, rtol=1e-2, atol=1e-2)
    assert error(gradients(model), expected) < 0.02


@pytest.mark.parametrize("routing", ROUTINGS)
@torch.no_grad()
def test_a_forward_can_be_captured_in_a_cuda_graph(routing, ids):
    model = lime(routing, "chunked").eval()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            expected = model(ids, use_cache=False).logits
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model(ids, use_cache=False).logits
    graph.replay()
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_memory_stays_near_llamas(routing):
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE)).to("cuda", torch.bfloat16).train()
    expected = [measure(llama, 4, 512) for measure in (saved_for_backward, peak_training_memory)]
    del llama
    torch.cuda.empty_cache()
    model = lime(routing, "chunked")
    actual = [measure(model, 4, 512) for measure in (saved_for_backward, peak_training_memory)]
    assert actual[0] <= 1.05 * expected[0]
    assert actual[1] <= 1.05 * expected[1]
