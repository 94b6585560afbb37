"""The routers alone: what they learn, what they hand on, and how they use a history."""

import pytest
import torch
from torch import nn

from limelm.routing import ROUTERS, HeadwiseLinear, RouterSpec

B, T, G, D, HEAD_DIM = 2, 5, 2, 8, 4
routings = pytest.mark.parametrize("routing", ROUTERS)


def make_router(routing: str, layer_idx: int, **options):
    router = ROUTERS[routing](RouterSpec(layer_idx=layer_idx, hidden_size=D, num_heads=G, **options))
    for parameter in router.parameters():
        nn.init.normal_(parameter)
    return router


def projections(headwise: bool) -> list[nn.Module]:
    if headwise:
        return [HeadwiseLinear(D, G, HEAD_DIM) for _ in range(2)]
    return [nn.Linear(D, G * HEAD_DIM, bias=False) for _ in range(2)]


def source_of(router, normalized):
    """What a layer hands on."""
    k_proj, v_proj = projections(headwise=False)
    return router(normalized, normalized, None, (), k_proj, v_proj)[2]


def test_the_registry():
    assert list(ROUTERS) == ["none", "static", "dynamic", "kv"]


@routings
def test_layer_zero_is_llama(routing):
    router = make_router(routing, 0)
    router.init_weights()
    assert list(router.parameters()) == []
    k_proj, v_proj = projections(headwise=False)
    attention_input, normalized = torch.randn(B, T, D), torch.randn(B, T, D)
    K, V, source = router.eval()(attention_input, normalized, None, (), k_proj, v_proj)
    torch.testing.assert_close(K.reshape(B, T, -1), k_proj(attention_input))
    torch.testing.assert_close(V.reshape(B, T, -1), v_proj(attention_input))
    assert (source is None) == (routing == "none")


@pytest.mark.parametrize("routing", ["static", "dynamic"])
def test_the_source_is_the_normalised_representation_itself(routing):
    normalized = torch.randn(B, T, D)
    assert source_of(make_router(routing, 0), normalized) is normalized


@routings
@pytest.mark.parametrize("layer_idx", [1, 3])
def test_shapes(routing, layer_idx):
    router = make_router(routing, layer_idx)
    below = make_router(routing, 0)
    history = tuple(source_of(below, torch.randn(B, T, D)) for _ in range(layer_idx))
    k_proj, v_proj = projections(headwise=router.headwise)
    X = torch.randn(B, T, D)
    K, V, source = router(X, X, torch.ones(D), history, k_proj, v_proj)
    assert K.numel() == V.numel() == B * T * G * HEAD_DIM
    assert K.shape[:2] == V.shape[:2] == (B, T)
    assert (source is None) if routing == "none" else source.shape == history[0].shape


@pytest.mark.parametrize("routing", ["static", "dynamic"])
def test_routing_weights_are_distributions_over_the_sources(routing):
    router = make_router(routing, 3)
    A = router.routing_weights(torch.randn(B, T, D))
    assert A.shape == ((G, 4) if routing == "static" else (B, T, G, 4))
    assert A.dtype == torch.float32
    assert (A > 0).all()
    torch.testing.assert_close(A.sum(dim=-1), torch.ones(A.shape[:-1]))


def test_dynamic_weights_depend_on_the_token_alone():
    router = make_router("dynamic", 2)
    current = torch.randn(B, T, D)
    changed = current.clone()
    changed[0, 3] += 1
    differs = (router.routing_weights(current) != router.routing_weights(changed)).flatten(2).any(dim=-1)
    assert differs.nonzero().tolist() == [[0, 3]]


@pytest.mark.parametrize("layer_idx", [1, 4])
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_kv_init(layer_idx, init):
    router = make_router("kv", layer_idx, init=init)
    router.init_weights()
    older, own = router.weight.detach().split([layer_idx * G, G], dim=1)
    assert torch.equal(own, torch.eye(G))
    bound = (3 / ((layer_idx + 1) * G)) ** 0.5
    assert older.abs().max() <= bound
    assert older.any() == (init == "paper")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@routings
def test_dtype_is_the_inputs(routing, dtype):
    router = make_router(routing, 1).to(dtype)
    k_proj, v_proj = (projection.to(dtype) for projection in projections(headwise=router.headwise))
    history = (source_of(make_router(routing, 0), torch.randn(B, T, D)),)
    history = tuple(source if source is None else source.to(dtype) for source in history)
    X = torch.randn(B, T, D, dtype=dtype)
    K, V, _ = router(X, X, torch.ones(D, dtype=dtype), history, k_proj, v_proj)
    assert K.dtype == V.dtype == dtype
