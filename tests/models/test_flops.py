import pytest
from transformers import AutoConfig, LlamaConfig

from limelm import HyperConnectionConfig, LimeConfig
from limelm.models.flops import model_cost

SHAPE = {  # Table 4
    "vocab_size": 50257,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


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
    ("model_type", "options", "products"),
    [  # by hand at L = 4: how many sources are read, times the multiply-adds for each of their numbers
        ("residual_scalars", {}, 3 * 2),
        ("dense_former", {}, 2 + 3 + 4 + 5),
        ("dense_former", {"period": 2, "dilation": 2}, 2 + 3),
        ("attention_residuals", {}, 2 * sum(range(2, 10))),
        ("attention_residuals", {"num_heads": 2, "block_size": 8}, 2 * 8 * 2),
        ("delta_attention_residuals", {}, 2 * sum(range(2, 9))),
        ("deep_cross_attention", {}, 3 * (3 * (2 + 3 + 4) + 5)),
        ("lime", {"routing": "value_residual"}, 3 * 2 / 2),  # values are half as wide here
        ("lime", {"routing": "depth_attention"}, 2 * (2 + 2 + 3) / 2),  # layers 1, 2 and 3 read 0 and 2, and their own
    ],
)
def test_mixes_that_are_no_matrix_products_are_counted_too(model_type, options, products):
    shape = {
        "vocab_size": 50,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    cost = model_cost(AutoConfig.for_model(model_type, **shape, **options), 24)
    mixes = 2 * 24 * 64 * products
    assert cost.forward_flops == llama_forward_flops(50, 64, 96, 4, 4, 2, 24) + mixes
    assert cost.paper_forward_flops == model_cost(LlamaConfig(**shape), 24).paper_forward_flops + mixes / 2


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
