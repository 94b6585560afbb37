import pytest
from transformers import LlamaConfig

from limelm import HyperConnectionConfig, LimeConfig
from limelm.models.flops import model_cost
from limelm.report.sections.costs import SHAPE


def llama_forward_flops(vocab, hidden, intermediate, layers, heads, kv_heads, length):
    """Two per multiply-add, from the shapes of the matrices."""
    head_dim = hidden // heads
    per_token = layers * (2 * hidden * hidden + 2 * hidden * kv_heads * head_dim + 3 * hidden * intermediate)
    attention = layers * 2 * heads * head_dim * length
    return 2 * length * (per_token + vocab * hidden + attention)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("routing", [None, "none", "static", "dynamic", "kv"])
def test_forward_flops_equal_the_formula(routing, kv_heads):
    shape = {
        "vocab_size": 50,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
    }
    length, head_dim = 24, 16
    config = LlamaConfig(**shape) if routing is None else LimeConfig(routing=routing, **shape)
    expected = llama_forward_flops(50, 64, 96, 5, 4, kv_heads, length)
    sources = sum(range(2, 6))  # layers 1 ... 4 read 2 ... 5 sources
    if routing in ("static", "dynamic"):
        expected += 2 * length * kv_heads * 64 * sources
    if routing == "dynamic":
        expected += 2 * length * 64 * kv_heads * sources
    if routing == "kv":
        expected += 2 * length * kv_heads * kv_heads * 2 * head_dim * sources
    assert model_cost(config, length).forward_flops == expected


@pytest.mark.parametrize(
    ("config", "printed"),
    [  # trillions: Table 6 of the first version, Table 8 of the second
        (LlamaConfig(**SHAPE), 2.97),
        (LimeConfig(routing="static", **SHAPE), 2.98),
        (LimeConfig(routing="dynamic", **SHAPE), 3.01),
        (HyperConnectionConfig(**SHAPE), 2.98),
        (LlamaConfig(num_key_value_heads=8, **SHAPE), 2.7615),
        (LimeConfig(routing="kv", num_key_value_heads=8, **SHAPE), 2.7638),
        (LimeConfig(routing="kv", **SHAPE), 3.0041),
    ],
)
def test_the_papers_convention_gives_the_papers_figures(config, printed):
    cost = model_cost(config, 2048)
    # The paper also counts norms and the like; that is less than 0.4 % of any of its figures.
    assert cost.paper_forward_flops / 1e12 == pytest.approx(printed, rel=0.004)
    assert cost.forward_flops > 1.7 * cost.paper_forward_flops
