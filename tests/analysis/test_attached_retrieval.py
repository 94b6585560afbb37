import copy
import datetime

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

from limelm import HyperConnectionConfig, HyperConnectionForCausalLM, LimeConfig, LimeForCausalLM
from limelm.adapters import attach
from limelm.analysis.retrieval import RetrievalWeights, retrieval_weights
from limelm.analysis.retrieval_statistics import mean_by_source
from tests.families import train_routers
from tests.models.variants import tiny_model, token_ids

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def lime(**options):
    return LimeForCausalLM(LimeConfig(**SHAPE, **options)).eval()


@pytest.mark.parametrize(
    "model",
    [
        LlamaForCausalLM(LlamaConfig(**SHAPE)),
        HyperConnectionForCausalLM(HyperConnectionConfig(**SHAPE)),
        lime(routing="none"),
    ],
)
def test_models_without_routing_have_none(model):
    assert retrieval_weights(model, "model") is None


def test_static_weights_are_the_softmax_and_pruned_ones_are_zero():
    model = lime(routing="static")
    weights = retrieval_weights(model, "static")
    assert list(weights.layers) == [1, 2, 3] and weights.top_p is None
    assert (weights.num_heads, weights.num_layers) == (2, 4)
    w = model.model.layers[2].self_attn.router.weight.detach().double().numpy()
    np.testing.assert_allclose(weights.layers[2], np.exp(w) / np.exp(w).sum(-1, keepdims=True), atol=1e-7)
    pruned = retrieval_weights(lime(routing="static", routing_top_p=0.3), "top-p")
    assert (pruned.layers[3] == 0).any() and pruned.top_p == 0.3
    np.testing.assert_allclose(pruned.layers[3].sum(-1), 1, atol=1e-6)


def test_pruning_is_by_the_current_weights_while_training_and_afterwards():
    model = lime(routing="static", routing_top_p=0.5)

    def change(shares):
        with torch.no_grad():
            model.model.layers[2].self_attn.router.weight.copy_(torch.tensor([shares, shares]).log())

    change([0.6, 0.3, 0.1])
    model.train()
    np.testing.assert_allclose(retrieval_weights(model, "m").layers[2], [[1, 0, 0]] * 2)
    change([0.1, 0.3, 0.6])
    np.testing.assert_allclose(retrieval_weights(model, "m").layers[2], [[0, 0, 1]] * 2)
    change([0.4, 0.2, 0.4])
    np.testing.assert_allclose(retrieval_weights(model, "m").layers[2], [[0.5, 0, 0.5]] * 2, atol=1e-6)
    model.eval()
    change([0.2, 0.6, 0.2])  # in place, without a word: the sources are chosen anew all the same
    np.testing.assert_allclose(retrieval_weights(model, "m").layers[2], [[0, 1, 0]] * 2)


def test_dynamic_priors_are_means_over_all_tokens():
    model = lime(routing="dynamic")
    batches = [torch.randint(40, (2, 5)), torch.randint(40, (1, 7))]
    weights = retrieval_weights(model, "dynamic", batches).layers
    total = np.zeros((2, 4))
    for batch in batches:
        states = model(batch, output_hidden_states=True).hidden_states
        # Layer 3 reads hidden_states[3]; the last entry is normed, the others are not.
        layer = model.model.layers[3]
        N = layer.routing_layernorm(states[3])
        logits = (N @ layer.self_attn.router.proj.weight.T).unflatten(-1, (2, 4))
        total += logits.softmax(-1).sum((0, 1)).detach().double().numpy()
    np.testing.assert_allclose(weights[3], total / 17, atol=1e-5)
    decoder = retrieval_weights(model.model, "without a head", batches).layers
    np.testing.assert_array_equal(decoder[3], weights[3])
    with pytest.raises(ValueError, match="give sequences"):
        retrieval_weights(model, "dynamic")
    assert not model.model.layers[1].self_attn.router._forward_pre_hooks


def test_a_compiled_model_has_the_same_priors():
    model, ids = lime(routing="dynamic"), torch.randint(40, (2, 5))
    expected = retrieval_weights(model, "m", [ids]).layers
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(input_ids=ids, use_cache=False, logits_to_keep=1)  # before there are hooks
    for layer, weights in retrieval_weights(compiled, "m", [ids]).layers.items():
        np.testing.assert_array_equal(weights, expected[layer])


def test_kv_weights_are_shares_of_absolute_weight():
    model = lime(routing="kv")
    R = model.model.layers[2].self_attn.router.weight.detach().abs().double().numpy()  # [2, 3 * 2]
    expected = np.stack([R[:, :2].sum(-1), R[:, 2:4].sum(-1), R[:, 4:].sum(-1)], -1)
    weights = retrieval_weights(model, "kv").layers[2]
    np.testing.assert_allclose(weights, expected / expected.sum(-1, keepdims=True), atol=1e-12)
    identity = retrieval_weights(lime(routing="kv", routing_init="identity"), "kv").layers[2]
    np.testing.assert_array_equal(identity, [[0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("routing", ["static", "dynamic", "kv"])
def test_bounded_routing_has_no_weight_on_what_it_does_not_read(routing):
    model = lime(routing=routing, routing_sources={"first": 1, "last": 1})
    weights = retrieval_weights(model, routing, [torch.randint(40, (2, 5))])
    np.testing.assert_array_equal(weights.layers[3][:, 1:3], 0)
    np.testing.assert_allclose(weights.layers[3].sum(-1), 1, atol=1e-6)
    uniform = {record["source"]: record["uniform"] for record in mean_by_source(weights)}
    assert uniform == pytest.approx(dict.fromkeys(range(4), 0.5))


def test_means_by_source_by_hand():
    layers = {1: np.array([[0.2, 0.8], [0.6, 0.4]]), 2: np.array([[0.1, 0.2, 0.7], [0, 1, 0]])}
    records = mean_by_source(RetrievalWeights("m", layers, {1: (0, 1), 2: (0, 1, 2)}))
    assert [(r["source"], r["mean_weight"]) for r in records] == [
        (0, pytest.approx((0.4 + 0.05) / 2)),
        (1, pytest.approx((0.6 + 0.6) / 2)),
        (2, pytest.approx(0.35)),
    ]
    assert [r["uniform"] for r in records] == pytest.approx([5 / 12, 5 / 12, 1 / 3])


@pytest.mark.parametrize("variant", ["static_top_p", "dynamic", "kv_gqa"])
def test_measuring_leaves_the_model_as_it_was(variant):
    model, ids = tiny_model(variant, attention_dropout=0.5).train(), token_ids()
    model.model.layers[1].mlp.eval()  # as if it were frozen
    model(ids, labels=ids, use_cache=False).loss.backward()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    first, second = (retrieval_weights(model, "m", [ids]).layers[3] for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert model.model.layers[3].self_attn.router.__dict__.get("pruning") is None


ATTACHED = ("attached static", "attached dynamic", "attached kv")
SHARDED = ("static", "static_top_p", "dynamic", "kv_gqa", *ATTACHED)


def model_to_shard(variant: str):
    if variant not in ATTACHED:
        return tiny_model(variant)
    torch.manual_seed(0)
    return train_routers(attach(LlamaForCausalLM(LlamaConfig(**SHAPE)), variant.split()[1], share_kv=False))


def measure_sharded(rank: int, rendezvous: str, folder: str) -> None:
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timeout)
    try:
        for variant in SHARDED:
            model = model_to_shard(variant).train()
            for layer in model.model.layers:
                fully_shard(layer)
            weights = retrieval_weights(fully_shard(model), variant, [token_ids() % 40])
            np.savez(f"{folder}/{variant}.{rank}.npz", *weights.layers.values())
    finally:
        dist.destroy_process_group()


def test_sharded_models_have_the_same_weights_on_every_rank(tmp_path):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    mp.start_processes(
        measure_sharded, args=(str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2, start_method="spawn"
    )
    for variant in SHARDED:
        expected = retrieval_weights(model_to_shard(variant), variant, [token_ids() % 40]).layers
        for rank in range(2):
            found = np.load(tmp_path / f"{variant}.{rank}.npz")
            assert len(found.files) == len(expected) == 3
            for name, weights in zip(found.files, expected.values(), strict=True):
                np.testing.assert_allclose(found[name], weights, atol=1e-6)
