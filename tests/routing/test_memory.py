"""What routing holds in memory for the backward: linear in the depth, and per layer about one more representation."""

import functools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limelm.planning.peak_memory import peak_training_memory
from tests.models.variants import TINY, tiny_model, token_ids

BATCH, TOKENS, HIDDEN, HEADS = 2, 80, 64, 4
N = BATCH * TOKENS
SHAPE = {"hidden_size": HIDDEN, "intermediate_size": 64, "max_position_embeddings": 128}
REPRESENTATION = N * HIDDEN * 4  # bytes of one [B, T, D]
DEPTHS = (8, 16, 32)

ROUTINGS = {
    "static": {"routing": "static"},
    "static_gqa": {"routing": "static", "num_key_value_heads": 2},
    "dynamic": {"routing": "dynamic"},
    "dynamic_gqa": {"routing": "dynamic", "num_key_value_heads": 2},
    "static_top_p": {"routing": "static", "routing_top_p": 0.7},
    "kv": {"routing": "kv"},
    "kv_gqa": {"routing": "kv", "num_key_value_heads": 2},
    "static_bounded": {"routing": "static", "routing_sources": {"first": 1, "last": 3}},
    "dynamic_bounded": {"routing": "dynamic", "routing_sources": {"first": 1, "last": 3}},
    "kv_bounded": {"routing": "kv", "routing_sources": {"first": 1, "last": 3}},
}
routings = pytest.mark.parametrize("routing", ROUTINGS)


def model_of(num_layers: int, **options):
    return tiny_model(
        "none", num_hidden_layers=num_layers, **(SHAPE | {"routing_backend": "chunked"} | options)
    ).train()


def saved_tensors(model) -> list[torch.Tensor]:
    """One tensor for each storage that a training forward holds for its backward, parameters aside."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(token_ids(BATCH, TOKENS), labels=token_ids(BATCH, TOKENS), use_cache=False).loss
    assert loss.requires_grad
    return [tensor for pointer, tensor in saved.items() if pointer not in parameters]


def saved_bytes(model) -> tuple[int, int]:
    """Bytes of activations (storages with room for at least a number per token), and of all else: routing weights."""
    sizes = [tensor.untyped_storage().nbytes() for tensor in saved_tensors(model)]
    return sum(size for size in sizes if size >= 4 * N), sum(size for size in sizes if size < 4 * N)


def bytes_per_layer(**options) -> float:
    few, many = (saved_bytes(model_of(L, **options))[0] for L in DEPTHS[:2])
    return (many - few) / (DEPTHS[1] - DEPTHS[0])


@routings
def test_saved_activations_grow_exactly_linearly(routing):
    activations, weights = zip(*(saved_bytes(model_of(L, **ROUTINGS[routing])) for L in DEPTHS), strict=True)
    assert activations[2] - activations[1] == 2 * (activations[1] - activations[0])
    # Routing weights [G, n] grow with the depth by nature; a few copies of them are all that is held of that size.
    model = model_of(DEPTHS[2], **ROUTINGS[routing])
    router_parameters = sum(parameter.nbytes for name, parameter in model.named_parameters() if "router" in name)
    assert weights[2] <= 8 * router_parameters + 1024


#: What a layer may hold beyond a layer of plain Llama, in representations (D numbers per token). A router's keys and
#: values stand side by side, so that the values that attention saves keep the keys too; kv also keeps its source.
ALLOWANCE = {
    "static": 1.0,
    "static_gqa": 0.5,
    "static_top_p": 1.0,
    "static_bounded": 1.0,
    "dynamic": 1.0,
    "dynamic_gqa": 0.5,
    "dynamic_bounded": 1.0,
    "kv": 2.0,
    "kv_gqa": 1.0,
    "kv_bounded": 2.0,
}


@routings
def test_a_layer_holds_about_one_representation_more_than_llama(routing):
    """With G = 4 heads a mixed input of every head, G x D, would be four."""
    options = ROUTINGS[routing]
    plain = bytes_per_layer(num_key_value_heads=options.get("num_key_value_heads", HEADS))
    more = (bytes_per_layer(**options) - plain) / REPRESENTATION
    print(f"{routing}: {more:.3f} representations more per layer")
    assert more <= ALLOWANCE[routing] + 0.15


@routings
def test_nothing_of_heads_times_hidden_size_is_held(routing):
    """Except the buffer of all sources, no tensor is larger than the MLP's and the keys and values."""
    model = model_of(8, **ROUTINGS[routing])
    largest = sorted((tensor.untyped_storage().nbytes() for tensor in saved_tensors(model)), reverse=True)
    rows = HEADS * 8 if routing.startswith("kv") else 8
    width = 2 * N * HIDDEN // HEADS if routing.startswith("kv") else N * HIDDEN
    assert largest[0] <= rows * (width + 128) * 4
    logits = N * TINY["vocab_size"] * 4
    assert [size for size in largest[1:] if size > max(2 * REPRESENTATION, logits) + 4096] == []


PEAK_SHAPE = TINY | {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 16,
    "max_position_embeddings": 128,
    "vocab_size": 256,
}


@functools.cache
def llamas_peak() -> int:
    return peak_training_memory(LlamaForCausalLM(LlamaConfig(**PEAK_SHAPE)).train(), 8, 128)


@pytest.mark.parametrize("routing", ["static", "dynamic", "kv"])
def test_peak_of_a_training_step_is_llamas(routing):
    """Weights, gradients, Adam's state and activations of a whole step."""
    ratio = peak_training_memory(tiny_model(routing, **PEAK_SHAPE).train(), 8, 128) / llamas_peak()
    print(f"{routing}: {ratio:.4f} of Llama's peak")
    assert ratio <= 1.05
