"""The other depth-connected models: their formulas in numbers, where they start, what they count and how they learn.

That logits, hidden states and all gradients equal the float64 loops is in `test_naive_equivalence.py`.
"""

import itertools

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import limelm
from limelm.analysis.retrieval import retrieval_weights
from limelm.models.attention_residuals import DepthAttention
from limelm.models.deep_cross_attention import GatedSum
from limelm.models.delta_attention_residuals import DeltaAttention
from limelm.models.dense_former import DepthWeightedAverage
from limelm.models.mudd_former import MultiwayDynamicDense
from tests.models import naive_rivals as naive
from tests.models.naive_copy import naive_copy
from tests.models.variants import (
    OTHERS,
    TINY,
    assert_same_gradients,
    causal_lm_class,
    config_class,
    gradients,
    tiny_config,
    tiny_model,
    token_ids,
)

all_rivals = pytest.mark.parametrize("variant", list(OTHERS))

# Numbers that were calculated beforehand, with one token and four channels


def doubles(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


#: sin(1 + 4 j + c) of source j and channel c, each source as the library takes it, [B, T, D].
SOURCES = [torch.sin(1 + 4 * j + torch.arange(4, dtype=torch.float64)).view(1, 1, 4) for j in range(3)]
ROWS = [source[0] for source in SOURCES]  # as the float64 loops take them


def assert_golden(actual: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual.detach().flatten(), doubles(expected), atol=6e-7, rtol=0)


@torch.no_grad()
def filled(module: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    """The module in float64 with these values as its parameters."""
    module = module.double()
    for name, parameter in module.named_parameters():
        parameter.copy_(values[name])
    return module


AVERAGE = [1.072585, -0.019519, -1.093677, -1.162314]


def test_dense_formers_average_in_numbers():
    a = doubles([0.5, -0.25, 1])
    assert_golden(naive.depth_weighted_average(ROWS, a), AVERAGE)
    assert_golden(filled(DepthWeightedAverage(3), {"weight": a})(*SOURCES), AVERAGE)


DEPTH_ATTENTION = {
    1: ([[0.189613, 0.631753, 0.178634]], [-0.372631, -0.101287, 0.263180, 0.385681]),
    2: (
        [[0.284090, 0.308495, 0.407416], [0.211634, 0.649340, 0.139027]],
        [0.111134, -0.049519, 0.317448, 0.407667],
    ),
}


@pytest.mark.parametrize("num_heads", DEPTH_ATTENTION)
def test_attention_residuals_in_numbers(num_heads):
    query, gain = doubles([0.1, -0.2, 0.3, 0.4]), torch.ones(4, dtype=torch.float64)
    alpha, h = DEPTH_ATTENTION[num_heads]
    assert_golden(naive.depth_attention(ROWS, query, gain, eps=0, num_heads=num_heads), h)
    for places in (DepthAttention(4, 0.0, num_heads), *([DeltaAttention(4, 0.0)] if num_heads == 1 else [])):
        filled(places, {"query": query, "norm.weight": gain})
        assert_golden(places.weights(*SOURCES), [weight for head in alpha for weight in head])
        assert_golden(places(*SOURCES), h)


def test_attention_residuals_with_a_temperature_and_a_scale():
    """Twice the query at twice the temperature is the same; the scale is the number of sources."""
    query, gain = doubles([0.2, -0.4, 0.6, 0.8]), torch.ones(4, dtype=torch.float64)
    place = DepthAttention(4, 0.0, softmax_temperature=2.0, scale_by_sources=True)
    filled(place, {"query": query, "norm.weight": gain})
    assert_golden(place(*SOURCES) / 3, DEPTH_ATTENTION[1][1])


MUDD_WEIGHTS = [-0.013690, -0.021613, 0.990334]
MUDD_QUERY = [0.417341, -0.545172, -1.006456, -0.542409]
MUDD_RESIDUAL = [0.403865, -0.553946, -1.002462, -0.529318]


def test_mudd_formers_mixes_in_numbers():
    W1 = 0.1 * torch.cos(1 + 8 * torch.arange(4.0, dtype=torch.float64)[:, None] + torch.arange(8))
    W2 = 0.1 * torch.sin(1 + 12 * torch.arange(8.0, dtype=torch.float64)[:, None] + torch.arange(12))
    a = doubles([[0, 0, 1]] * 4)
    w = naive.mudd_weights(ROWS[-1], W1, W2, a, eps=1e-6)
    assert_golden(w[0, 0], MUDD_WEIGHTS)
    assert_golden(naive.mudd_mix(ROWS, w, 0), MUDD_QUERY)
    assert_golden(naive.mudd_mix(ROWS, w, 3), MUDD_RESIDUAL)

    module = MultiwayDynamicDense(4, num_sources=3, num_ways=4, expansion=1, eps=1e-6, pre_post_norm=False)
    module.hidden, module.output = nn.Linear(4, 8, bias=False), nn.Linear(8, 12, bias=False)
    filled(module, {"hidden.weight": W1.T, "output.weight": W2.T, "bias": a})
    assert_golden(module.weights(SOURCES[-1])[0, 0, 0], MUDD_WEIGHTS)
    query, _, _, residual = module(SOURCES[-1], *SOURCES)
    assert_golden(query, MUDD_QUERY)
    assert_golden(residual, MUDD_RESIDUAL)


GATED_SUM = [0.779838, -0.569835, -1.395605, -0.938262]


def test_deep_cross_attentions_sum_in_numbers():
    b, w = doubles([0.5, 1, 2])[:, None].expand(3, 4), doubles([0.3, -0.1, 0.2, -0.4])
    assert_golden(naive.gated_sum(ROWS, b, w), GATED_SUM)
    assert_golden(filled(GatedSum(3, 4), {"bias": b, "gate": w})(*SOURCES), GATED_SUM)


MANY = 300


@pytest.mark.parametrize(
    ("connection", "values"),
    [
        (DepthWeightedAverage(MANY), {"weight": torch.ones(MANY)}),
        (GatedSum(MANY, 8), {"bias": torch.ones(MANY, 8), "gate": torch.zeros(8)}),
        (DepthAttention(8, 1e-6, 2, scale_by_sources=True), {"query": torch.zeros(8), "norm.weight": torch.ones(8)}),
    ],
    ids=["dense_former", "deep_cross_attention", "attention_residuals"],
)
@torch.no_grad()
def test_sources_are_added_up_in_float32(connection, values):
    """In bfloat16 256 + 1 is 256."""
    connection = filled(connection, values).bfloat16()
    total = connection(*[torch.ones(1, 1, 8, dtype=torch.bfloat16)] * MANY)
    assert total.dtype == torch.bfloat16
    assert (total == MANY).all()


@torch.no_grad()
def test_mudd_formers_weights_are_float32():
    connection = MultiwayDynamicDense(8, MANY, 4, 1, eps=1e-6, pre_post_norm=False).bfloat16()
    connection.bias.fill_(1)
    sources = [torch.ones(1, 1, 8, dtype=torch.bfloat16)] * MANY
    for mix in connection(sources[-1], *sources):
        assert mix.dtype == torch.bfloat16
        assert (mix == MANY).all()
    connection.bias.fill_(256)
    connection.hidden.weight.fill_(2**-4)
    connection.output.weight.fill_(2**-6)
    weights = connection.weights(sources[-1])
    assert weights.dtype == torch.float32
    assert (weights != weights.bfloat16()).all()  # which knows 256 and 258


# Where they start

#: By how much of the largest logit a fresh model may differ from Llama, where it is not Llama to the bit.
START = {"attention_residuals": 1e-5, "delta_attention_residuals": 1e-5, "deep_cross_attention": 0.3}


def fresh_beside_llama(variant: str, **changes) -> tuple[nn.Module, nn.Module]:
    """A fresh model, and a Llama with its weights."""
    config = tiny_config(variant, **changes)
    torch.manual_seed(3)
    model = causal_lm_class(config)(config).eval()
    shared = {name: getattr(config, name) for name in [*TINY, "rms_norm_eps"]}
    llama = LlamaForCausalLM(LlamaConfig(**shared)).eval()
    assert not llama.load_state_dict(model.state_dict(), strict=False).missing_keys
    return model, llama


def difference(model: nn.Module, other: nn.Module) -> float:
    """The largest of the logits, as a share of the largest logit."""
    with torch.no_grad():
        actual, expected = model(token_ids()).logits, other(token_ids()).logits
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@all_rivals
def test_a_fresh_model_is_llama(variant):
    assert difference(*fresh_beside_llama(variant, rms_norm_eps=1e-12)) <= START.get(OTHERS[variant][0], 0.0)


@pytest.mark.parametrize("block_size", [1, 3])
def test_attention_residuals_start_as_llama_whatever_the_epsilon_when_scaled(block_size):
    changes = {"block_size": block_size, "rms_norm_eps": 1e-5}
    assert difference(*fresh_beside_llama("attention_residuals", **changes, scale_by_sources=True)) < 1e-5
    assert difference(*fresh_beside_llama("attention_residuals", **changes)) > 1e-4


@pytest.mark.parametrize("block_size", [1, 3])
def test_gated_delta_attention_residuals_start_as_llama_to_the_bit(block_size):
    assert difference(*fresh_beside_llama("delta_attention_residuals", block_size=block_size, gated=True)) == 0


def test_delta_attention_residuals_with_blocks_and_no_gate_do_not_start_as_llama():
    assert difference(*fresh_beside_llama("delta_attention_residuals", block_size=3)) > 1e-3


@pytest.mark.parametrize("changes", [{}, {"num_recent": 1}, {"num_recent": 2}], ids=str)
def test_deep_cross_attention_with_closed_gates_starts_as_llama_unless_layers_are_dropped(changes):
    def closed(**changes) -> tuple[nn.Module, nn.Module]:
        model, llama = fresh_beside_llama("deep_cross_attention", **changes)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("gate"):
                    parameter.zero_()
        return model, llama

    assert difference(*closed(**changes)) < 1e-5
    assert not changes or difference(*closed(**changes, sum_rest=False)) > 1e-3


# What they count

SIZES = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 100}
COUNTS = [
    ("residual_scalars", {}, 24),
    ("dense_former", {}, 90),
    ("dense_former", {"period": 5, "dilation": 4}, 5 // 4 + 1 + 10 // 4 + 1),
    ("attention_residuals", {}, 38_400),
    ("attention_residuals", {"block_size": 4, "num_heads": 4}, 38_400),
    ("delta_attention_residuals", {}, 36_864),
    ("delta_attention_residuals", {"block_size": 4, "gated": True}, 36_864 + 24),
    ("mudd_former", {}, 610_689 + 2 * 11 * 768),
    ("mudd_former", {"pre_post_norm": True}, 610_689 + 2 * 11 * 768 + (1 + 3 * 12) * 768),
    ("deep_cross_attention", {}, 218_112 + 2 * 12 * 768),
    ("deep_cross_attention", {"num_recent": 2, "sum_rest": False}, (3 * (2 + 3 + 10 * 4) + 4 + 2 * 12) * 768),
    ("deep_cross_attention", {"num_recent": 2}, (3 * (2 + 3 + 4 + 9 * 5) + 5 + 2 * 12) * 768),
]


@pytest.mark.parametrize(("model_type", "options", "expected"), COUNTS, ids=str)
def test_parameters_beside_llamas(model_type, options, expected):
    with torch.device("meta"):
        config = config_class(model_type)(**SIZES, **options)
        nets = causal_lm_class(config)(config), LlamaForCausalLM(LlamaConfig(**SIZES))
    ours, llamas = (sum(parameter.numel() for parameter in net.parameters()) for net in nets)
    assert ours - llamas == expected


# What they read


@pytest.mark.parametrize(("period", "dilation"), itertools.product([1, 2, 5], [1, 2, 4]))
@torch.no_grad()
def test_dense_former_averages_every_kth_output_after_every_pth_layer(period, dilation):
    model = tiny_model("dense_former", num_hidden_layers=6, period=period, dilation=dilation)
    outputs, averaged = [], {}
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: outputs.append(output))
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda module, args, output: outputs.append(output[1]))
        if hasattr(layer, "connection"):
            layer.connection.register_forward_hook(lambda module, args, output, i=i: averaged.update({i + 1: args}))
    model(token_ids())
    assert list(averaged) == [number for number in range(1, 7) if number % period == 0]
    for number, sources in averaged.items():
        expected = [outputs[j] for j in range(number + 1) if j % dilation == number % dilation]
        assert len(sources) == len(expected)
        assert all(map(torch.equal, sources, expected))


@pytest.mark.parametrize("block_size", [1, 2, 3, 8])
@pytest.mark.parametrize("variant", ["attention_residuals", "delta_attention_residuals"])
@torch.no_grad()
def test_a_sublayer_reads_the_embedding_and_what_blocks_have_added(variant, block_size):
    """Attention Residuals the block in progress too; that of Delta Attention Residuals waits until it is finished."""
    model = tiny_model(variant, block_size=block_size)
    counts = []
    for layer in model.model.layers:
        for connection in (layer.attn_connection, layer.mlp_connection):
            connection.register_forward_hook(lambda module, sources, output: counts.append(len(sources)))
    model(token_ids())
    in_progress = variant == "attention_residuals"
    assert counts == [1 + s // block_size + (in_progress and s % block_size > 0) for s in range(8)]


OPTIONS = [
    ("dense_former", {"period": 2, "dilation": 1}),
    ("attention_residuals", {"block_size": 1, "num_heads": 1, "softmax_temperature": 3.0}),
    ("attention_residuals", {"block_size": 2, "scale_by_sources": True}),
    ("delta_attention_residuals", {"block_size": 3, "gated": True}),
    ("delta_attention_residuals", {"block_size": 2}),
    ("deep_cross_attention", {"num_recent": 2, "num_hidden_layers": 5}),
    ("deep_cross_attention", {"num_recent": 2, "num_hidden_layers": 5, "sum_rest": False}),
]


@pytest.mark.parametrize(("variant", "changes"), OPTIONS, ids=str)
def test_further_options_equal_the_float64_version(variant, changes):
    model = tiny_model(variant, **changes).train()
    naive_model = naive_copy(model)
    logits, expected = model(token_ids(1, 5)).logits, naive_model.logits(token_ids(1, 5))
    torch.testing.assert_close(logits.double(), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    logits.square().sum().backward()
    expected.square().sum().backward()
    # Of one source there is nothing to choose, and a norm does not see a factor: rounding is what is left of both.
    first = "model.layers.0.attn_connection"
    named = {name: weight.grad for name, weight in naive_model.weights.items() if not name.startswith(first)}
    assert_same_gradients({name: found for name, found in gradients(model).items() if name in named}, named, 1e-4)


@all_rivals
@torch.no_grad()
def test_an_early_exit_equals_the_float64_version(variant):
    """A MUDDFormer reads out the residual way, Deep Cross-Attention with the first rows of its last weights."""
    model = tiny_model(variant, num_hidden_layers=3)
    model.config.num_hidden_layers = 2
    logits, expected = model(token_ids(2, 5)).logits, naive_copy(model).logits(token_ids(2, 5))
    torch.testing.assert_close(logits.double(), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    weights = retrieval_weights(model, variant, [token_ids(2, 5)])
    assert weights is None or all(rows.shape[1] == place + 1 for place, rows in weights.layers.items())


@torch.no_grad()
def test_mudd_formers_early_exit_reads_a_hidden_state():
    decoder = tiny_model("mudd_former").model
    expected = decoder.norm(decoder(token_ids(), output_hidden_states=True).hidden_states[2])
    decoder.config.num_hidden_layers = 2
    torch.testing.assert_close(decoder(token_ids()).last_hidden_state, expected)


# How they learn


def is_idle(name: str) -> bool:
    """Whether it is of the first attention over depth, which has one source, and so nothing to choose."""
    return name.startswith("model.layers.0.attn_connection") and name.endswith(("query", "norm.weight"))


def mixing_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that Llama does not have."""
    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig(**TINY)).state_dict()
    return {name: parameter for name, parameter in model.named_parameters() if name not in llama}


@all_rivals
def test_every_mixing_parameter_learns(variant):
    torch.manual_seed(3)
    config = tiny_config(variant)
    model = causal_lm_class(config)(config)
    optimizer = torch.optim.AdamW(limelm.parameter_groups(model, learning_rate=1e-2))
    found = mixing_parameters(model)
    start = {name: parameter.detach().clone() for name, parameter in found.items()}
    for seed in range(4):
        optimizer.zero_grad()
        model(token_ids(seed=seed), labels=token_ids(seed=seed)).loss.backward()
        optimizer.step()
    for name, parameter in found.items():
        assert parameter.grad.any() != is_idle(name), name
        assert torch.equal(parameter, start[name]) == is_idle(name), name


@all_rivals
@torch.no_grad()
def test_every_mixing_parameter_counts(variant):
    model = tiny_model(variant)
    logits = model(token_ids()).logits
    for name, parameter in mixing_parameters(model).items():
        kept = parameter.clone()
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        assert ((model(token_ids()).logits - logits).abs().max() > 1e-4) != is_idle(name), name
        parameter.copy_(kept)


@all_rivals
def test_no_mixing_parameter_decays(variant):
    model = tiny_model(variant)
    groups = {id(parameter): group for group in limelm.parameter_groups(model) for parameter in group["params"]}
    for name, parameter in mixing_parameters(model).items():
        assert (groups[id(parameter)]["lr"], groups[id(parameter)]["weight_decay"]) == (1e-3, 0.0), name
