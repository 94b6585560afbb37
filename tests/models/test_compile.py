"""The models compile as one graph, whose backward writes into one gradient buffer and saves no more than Llama's."""

import functools

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend

from limelm.routing.ops import operators
from tests.models.variants import VARIANTS, assert_same_gradients, gradients, tiny_model, token_ids

BOUNDED = {"routing_sources": {"first": 1, "last": 2}}
ROUTINGS = ("static_gqa", "dynamic", "kv_gqa")
routings = pytest.mark.parametrize("variant", ROUTINGS)
#: Sources, whether layers run again for their backward, and the dtype.
WAYS = {
    "all": ({}, False, torch.float32),
    "bounded": (BOUNDED, False, torch.float32),
    "bounded_recomputed": (BOUNDED, True, torch.float32),
    "all_bfloat16": ({}, False, torch.bfloat16),
    "all_recomputed_bfloat16": ({}, True, torch.bfloat16),
}


@pytest.fixture(autouse=True)
def _compile_anew():
    torch._dynamo.reset()


def step(model, module=None) -> dict[str, torch.Tensor]:
    (model if module is None else module)(token_ids(), labels=token_ids(), use_cache=False).loss.backward()
    return gradients(model)


@pytest.mark.parametrize("way", WAYS)
@routings
def test_gradients_are_those_without_a_compiler(variant, way):
    options, checkpointing, dtype = WAYS[way]
    model = tiny_model(variant, num_hidden_layers=3, **options).to(dtype).train()
    expected = step(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    actual = step(model, torch.compile(model, fullgraph=True, backend="aot_eager"))
    if dtype == torch.float32:
        assert_same_gradients(actual, expected, tolerance=2e-5)
        return
    flat_actual, flat_expected = (
        torch.cat([found[name].flatten().float() for name in expected]) for found in (actual, expected)
    )
    assert (flat_actual - flat_expected).norm() < 0.03 * flat_expected.norm()


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in ROUTINGS])
def test_others_have_the_same_gradients(variant):
    model = tiny_model(variant, num_hidden_layers=2).train()
    expected = step(model)
    actual = step(model, torch.compile(model, fullgraph=True, backend="aot_eager"))
    assert_same_gradients(actual, expected, tolerance=2e-5)


@routings
def test_layers_may_be_compiled_one_by_one(variant):
    """Then the buffer goes from graph to graph."""
    model = tiny_model(variant).train()
    expected = step(model)
    for layer in model.model.layers:
        layer.compile(backend="aot_eager")
    assert_same_gradients(step(model), expected, tolerance=2e-5)


@pytest.mark.parametrize(
    ("variant", "options", "is_compiled"),
    [
        ("static_gqa", {}, False),
        ("static_gqa", BOUNDED, False),
        ("dynamic", {}, False),
        ("kv_gqa", BOUNDED, False),
        ("dynamic", {}, True),  # the compiler takes a quarter of a minute for each
        ("kv_gqa", BOUNDED, True),
    ],
)
def test_all_readers_write_into_one_gradient_buffer(variant, options, is_compiled, monkeypatch):
    """In Inductor's code too, which would copy it for each reader if an operator returned it."""
    buffers = []
    rows = operators._rows

    def watched(buffer, *rest):
        buffers.append((buffer.data_ptr(), tuple(buffer.shape)))
        return rows(buffer, *rest)

    model = tiny_model(variant, num_hidden_layers=3, **options).train()
    expected = step(model)
    module = torch.compile(model, fullgraph=True) if is_compiled else model
    monkeypatch.setattr(operators, "_rows", watched)
    assert_same_gradients(step(model, module), expected, tolerance=2e-5)
    assert len(buffers) == 2  # once for each layer that reads others
    assert len(set(buffers)) == 1


@routings
def test_deeper_models_are_no_more_compilations(variant):
    for layers in (2, 5):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        model = tiny_model(variant, num_hidden_layers=layers).train()
        module = torch.compile(model, fullgraph=True, backend=counter)
        for _ in range(2):
            step(model, module)
        assert counter.frame_count == 1


WIDE = {"hidden_size": 64, "intermediate_size": 256, "routing_backend": "chunked"}
TOKENS = 64
REPRESENTATION = 2 * TOKENS * 64 * 4  # bytes of one


def saved_by_compiled(variant: str, layers: int, **options) -> int:
    """Bytes that Inductor's partition of a training graph keeps from the forward for the backward."""
    saved: dict[int, int] = {}

    def keep_sizes(graph, _):
        (outputs,) = next(node for node in graph.graph.nodes if node.op == "output").args
        for node in outputs:
            value = node.meta["val"] if isinstance(node, torch.fx.Node) and node.op == "call_function" else None
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                saved[storage._cdata] = storage.nbytes()
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=keep_sizes,
        bw_compiler=lambda graph, _: make_boxed_func(graph.forward),
        partition_fn=min_cut_rematerialization_partition,
    )
    torch._dynamo.reset()
    model = tiny_model(variant, num_hidden_layers=layers, **options).train()
    module = torch.compile(model, fullgraph=True, backend=backend)
    module(token_ids(2, TOKENS), labels=token_ids(2, TOKENS), use_cache=False).loss.backward()
    return sum(saved.values())


#: What a layer keeps beyond compiled Llama's, in representations: kv keeps its own keys and values, which are sources.
MORE = {"static": 0, "dynamic": 0, "kv": 2}


@functools.cache
def saved_per_layer(variant: str) -> float:
    return (saved_by_compiled(variant, 4, **WIDE) - saved_by_compiled(variant, 2, **WIDE)) / 2


@pytest.mark.parametrize("variant", MORE)
def test_a_compiled_layer_keeps_as_much_as_llamas(variant):
    """An average over layers 2 and 3: what grew with the number of sources would show."""
    extra = (saved_per_layer(variant) - saved_per_layer("none")) / REPRESENTATION
    print(f"{variant}: {extra:.3f} representations more, of {saved_per_layer('none') / REPRESENTATION:.1f}")
    assert extra <= MORE[variant] + 0.1
