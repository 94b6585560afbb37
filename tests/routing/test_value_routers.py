"""Value Residual and Depth-Attention: values alone are mixed over depth.

The suites of tests/models take both through formulas in float64, caches, checkpointing, saving; here is what is theirs.
"""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import limelm
from limelm import LimeConfig, LimeForCausalLM
from limelm.analysis import ActivationReader, retrieval_weights
from limelm.routing import DepthAttentionRouter, RouterSpec, ValueResidualRouter, make_routers, routers_in
from tests.models.naive_copy import naive_copy
from tests.models.variants import TINY, assert_same_gradients, gradients, tiny_config, tiny_model, token_ids

#: Rows of the numbers that all of these are tried on: entry c of row j is sin(1 + 4 j + c).
ROWS = torch.tensor([[1 + 4 * j + c for c in range(4)] for j in range(6)]).double().sin()


def as_heads(row: torch.Tensor) -> torch.Tensor:
    """One token of one head, `[B, T, G, d]`."""
    return row.view(1, 1, 1, -1)


class Constant(nn.Module):
    """A projection that makes the same of everything."""

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self.output = output

    def forward(self, inputs):
        return self.output.view(1, 1, -1)


@torch.no_grad()
def test_value_residual_by_hand():
    router = ValueResidualRouter(RouterSpec(3, 4, 1)).double()
    router.init_weights()
    K, V, carrier, source = router(
        torch.zeros(1, 1, 4), None, Constant(ROWS[0]), Constant(ROWS[5]), None, (as_heads(ROWS[3]),)
    )
    expected = torch.tensor([0.628411, 0.490878, -0.097966, -0.596741]).double()
    torch.testing.assert_close(V.flatten(), expected, atol=1e-6, rtol=0)
    assert torch.equal(K.flatten(), ROWS[0]) and carrier is None and source is None


@torch.no_grad()
def test_depth_attention_by_hand():
    router = DepthAttentionRouter(RouterSpec(2, 4, 1))
    sources = [torch.cat((as_heads(ROWS[j]), as_heads(ROWS[j + 3])), dim=-1) for j in range(2)]
    query = torch.tensor([[[0.1, -0.2, 0.3, 0.4, 0.3, 0.2, -0.1, 0.0]]]).double()  # of two heads, whose mean counts
    call = (torch.zeros(1, 1, 4), None, Constant(ROWS[2]), Constant(ROWS[5]), None, sources, query)
    K, V, _, source = router(*call)
    weights = torch.tensor([0.339493, 0.346479, 0.314029])
    torch.testing.assert_close(router.effective_weights(call).flatten(), weights, atol=1e-6, rtol=0)
    expected = torch.tensor([0.072273, 0.073323, 0.006960, -0.065802]).double()
    torch.testing.assert_close(V.flatten(), expected, atol=1e-6, rtol=0)
    assert torch.equal(K.flatten(), ROWS[2])
    assert torch.equal(source, torch.cat((K, V), dim=-1))  # mixed values are what later layers read


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_value_residual_from_identity_is_llama_to_the_bit(training):
    changes = {"num_key_value_heads": 2}
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**TINY | changes)).train(training)
    model = LimeForCausalLM(LimeConfig(**TINY | changes, routing="value_residual", routing_init="identity"))
    missing = model.load_state_dict(llama.state_dict(), strict=False).missing_keys
    assert missing == [f"model.layers.{i}.self_attn.router.weight" for i in (1, 2, 3)]
    assert torch.equal(model.train(training)(token_ids()).logits, llama(token_ids()).logits)


def test_what_the_scalars_start_from():
    for init, start in (("paper", [0.5, 0.5]), ("identity", [0.0, 1.0])):
        model = LimeForCausalLM(tiny_config("value_residual_gqa", routing_init=init))
        weights = [router.weight.tolist() for router in routers_in(model) if router.has_choice]
        assert weights == [start] * 3


@pytest.mark.parametrize(("variant", "extra"), [("value_residual_gqa", 22), ("depth_attention_gqa", 0)])
def test_parameters_beside_llamas(variant, extra):
    sizes = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
    with torch.device("meta"):
        routed = LimeForCausalLM(tiny_config(variant, **sizes))
        plain = LimeForCausalLM(tiny_config("none_gqa", **sizes))
    assert routed.num_parameters() - plain.num_parameters() == extra


def test_scalars_learn_fast_do_not_decay_and_change_the_output():
    model = tiny_model("value_residual_gqa")
    groups = {group["name"]: group for group in limelm.parameter_groups(model)}
    scalars = [router.weight for router in routers_in(model) if router.has_choice]
    assert {id(parameter) for parameter in groups["router"]["params"]} == {id(scalar) for scalar in scalars}
    assert (groups["router"]["lr"], groups["router"]["weight_decay"]) == (1e-2, 0.0)
    before = model(token_ids()).logits
    for scalar in scalars:
        for place in (0, 1):
            with torch.no_grad():
                scalar[place] += 0.5
                assert (model(token_ids()).logits - before).abs().max() > 1e-3
                scalar[place] -= 0.5


def test_depth_attention_needs_no_groups_of_its_own():
    model = tiny_model("depth_attention_gqa")
    grouped = [parameter for group in limelm.parameter_groups(model) for parameter in group["params"]]
    assert len(grouped) == len({*map(id, grouped)}) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("layers", "asked", "bounds", "reads"),
    [
        (12, None, {"every": 6, "last": 1}, [(0,)] * 6 + [(0, 6)] * 5),
        (5, None, {"every": 2, "last": 1}, [(0,), (0,), (0, 2), (0, 2)]),
        (1, None, {"every": 1, "last": 1}, []),
        (4, {"every": 9, "last": 1}, {"every": 9, "last": 1}, [(0,), (0,), (0,)]),
        (5, {"every": 2, "last": 2}, {"every": 2, "last": 2}, [(0,), (0, 1), (0, 2), (0, 2, 3)]),
        (4, {"first": 0, "last": 1}, {"first": 0, "last": 1}, [(), (), ()]),
    ],
    ids=str,
)
def test_sources_of_depth_attention(layers, asked, bounds, reads):
    config = LimeConfig(**TINY | {"num_hidden_layers": layers}, routing="depth_attention", routing_sources=asked)
    assert config.routing_sources == bounds
    found = [router.reads for router in routers_in(LimeForCausalLM(config))]
    assert found == [(), *reads]
    assert [router.reads for router in make_routers("depth_attention", layers, 32, 2, sources=asked)] == found


def test_other_bounds_equal_the_naive_version_with_all_gradients():
    """A window and a stride that do not divide the depth; layers 4 and 5 leave what only some, or none, will read."""
    bounds = {"num_hidden_layers": 6, "routing_sources": {"every": 4, "last": 3}}
    model = tiny_model("depth_attention_gqa", **bounds).double().train()
    naive = naive_copy(model)
    logits, expected = model(token_ids(tokens=4)).logits, naive.logits(token_ids(tokens=4))
    torch.testing.assert_close(logits, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    probe = torch.randn_like(logits)
    (logits * probe).sum().backward()
    (expected * probe).sum().backward()
    assert_same_gradients(gradients(model), {name: weight.grad for name, weight in naive.weights.items()})


def test_fewer_layers_read_what_they_were_made_for(tmp_path):
    """The default follows from the depth; a checkpoint says it, so that the first layers alone stay the same."""
    model = tiny_model("depth_attention_gqa", num_hidden_layers=8)
    model.save_pretrained(tmp_path)
    cut = LimeForCausalLM.from_pretrained(tmp_path, num_hidden_layers=6)
    assert cut.config.routing_sources == {"every": 4, "last": 1}
    model.config.num_hidden_layers = 6
    assert torch.equal(cut(token_ids()).logits, model(token_ids()).logits)


@pytest.mark.parametrize("variant", ["value_residual_gqa", "depth_attention_gqa"])
@torch.no_grad()
def test_eager_attention_equals_sdpa(variant):
    model = tiny_model(variant)
    expected = model(token_ids()).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(token_ids()).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_cache_holds_mixed_values():
    model = tiny_model("value_residual_gqa")
    seen = ActivationReader(model, "m")(token_ids())
    cache = model(token_ids(), use_cache=True).past_key_values
    for layer, values in zip(cache.layers, seen.values, strict=True):
        torch.testing.assert_close(layer.values.transpose(1, 2).flatten(2), values)
    weight = model.model.layers[2].self_attn.router.weight
    mixed = weight[0] * seen.values[0] + weight[1] * seen.own_values[2]
    torch.testing.assert_close(seen.values[2], mixed)


def test_float32_scalars_meet_bfloat16_values():
    model = tiny_model("value_residual_gqa").train()
    with torch.autocast("cpu", torch.bfloat16):
        model(token_ids(), labels=token_ids()).loss.backward()
    weight = model.model.layers[1].self_attn.router.weight
    assert weight.dtype == weight.grad.dtype == torch.float32 and weight.grad.all()


@torch.no_grad()
def test_weights_over_depth_for_analysis():
    model = tiny_model("value_residual_gqa")
    weights = retrieval_weights(model, "m")
    scalars = model.model.layers[3].self_attn.router.weight.abs().double()
    shares = torch.zeros(2, 4).double()
    shares[:, [0, 3]] = scalars / scalars.sum()
    torch.testing.assert_close(torch.tensor(weights.layers[3]), shares)
    assert weights.sources == {1: (0, 1), 2: (0, 2), 3: (0, 3)} and weights.head_mixes == {}

    model = tiny_model("depth_attention_gqa")
    seen = ActivationReader(model, "m")(token_ids())
    A = seen.routing[3]  # layers 0, 2 and its own
    assert A.shape == (2, 9, 2, 4) and (A[..., 1] == 0).all() and (A[..., [0, 2, 3]] > 0).all()
    by_hand = sum(
        A[..., j, None] * values.unflatten(-1, (2, 8))
        for j, values in ((0, seen.values[0]), (2, seen.values[2]), (3, seen.own_values[3]))
    )
    torch.testing.assert_close(seen.values[3], by_hand.flatten(2))
    prior = retrieval_weights(model, "m", [token_ids()]).layers[3]
    torch.testing.assert_close(torch.tensor(prior), A.double().mean(dim=(0, 1)))


@pytest.mark.parametrize(
    ("variant", "reason"),
    [("value_residual_gqa", "do not depend on tokens"), ("depth_attention_gqa", "no direction opens a route")],
)
def test_no_direction_opens_their_routes(variant, reason):
    layer = tiny_model(variant).model.layers[2]
    with pytest.raises(LookupError, match=reason):
        layer.self_attn.router.directions(layer)
