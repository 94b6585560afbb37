"""mHC's connection alone: published numbers, doubly stochastic matrices, their gradients, and where it starts."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import vjp

from limelm.routing import ManifoldConnection, ManifoldReadout
from limelm.routing.manifold_connection import sinkhorn

#: Three streams of one token, of size 4.
S3 = torch.tensor([[[[math.sin(1 + 4 * j + c) for c in range(4)] for j in range(3)]]])
LOGITS = torch.tensor([[0.0, 1, -1], [2, 0, 0.5], [-0.5, 1, 0]])
MIXED = torch.tensor([[0.257593, 0.524779, 0.217627], [0.619634, 0.062849, 0.317516], [0.122772, 0.412371, 0.464855]])
CYCLE = torch.tensor([1, 2, 0])


def logit(share: Tensor) -> Tensor:
    return torch.log(share / (1 - share))


def constant_connection(pre: list[float], post: list[float], mix_logits: Tensor, size: int = 4) -> ManifoldConnection:
    """One whose coefficients do not depend on the streams."""
    connection = ManifoldConnection(size, len(pre), site=0)
    bias = torch.cat((logit(torch.tensor(pre)), logit(torch.tensor(post) / 2), mix_logits.flatten()))
    with torch.no_grad():
        connection.bias.copy_(bias)
    return connection


def random_connection(size: int = 8, n: int = 3, seed: int = 0) -> ManifoldConnection:
    connection = ManifoldConnection(size, n, site=1)
    return randomize(connection, seed)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module


def random_streams(size: int = 8, n: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 5, n, size, generator=torch.Generator().manual_seed(7)).to(dtype)


# The numbers


def test_the_golden_matrix():
    torch.testing.assert_close(sinkhorn(LOGITS), MIXED, atol=2e-6, rtol=0)


def test_the_golden_streams():
    """The mix is DeepSeek-V4's: X'_k takes M[j, k] of stream j."""
    connection = constant_connection([0.5, 0.25, 0.75], [1, 0.5, 1.5], LOGITS)
    read, carried, post = connection(S3)
    streams = connection.write(torch.tensor([[[1.0, 2, 3, 4]]]), carried, post)
    expected = torch.tensor([0.490093, -0.023221, -0.515186, -0.533491])
    torch.testing.assert_close(read[0, 0], expected, atol=5e-6, rtol=0)
    expected = torch.tensor([0.673172, 1.994303, 3.320671, 4.352216])
    torch.testing.assert_close(streams[0, 0, 0], expected, atol=5e-6, rtol=0)
    others = torch.einsum("jk,jc->kc", MIXED, S3[0, 0]) + torch.tensor([[1.0], [0.5], [1.5]]) * torch.arange(1, 5)
    torch.testing.assert_close(streams[0, 0], others, atol=5e-6, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_rows_and_columns_sum_to_one(n):
    M = sinkhorn(0.5 * torch.randn(3, 50, n, n, generator=torch.Generator().manual_seed(n)))
    assert (M > 0).all()
    for dim in (-1, -2):
        torch.testing.assert_close(M.sum(dim), torch.ones(3, 50, n), atol=1e-5, rtol=0)


# Gradients of the matrix


def test_gradients_through_all_divisions_are_finite_differences():
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(sinkhorn, logits)
    assert torch.autograd.gradgradcheck(sinkhorn, logits)


def test_gradients_are_those_of_the_plain_operations():
    """Which `torch.func` sees."""
    logits = (2 * torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(2))).requires_grad_()
    probe = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(3))
    plain, backward = vjp(sinkhorn, logits.detach())
    assert torch.equal(plain, sinkhorn(logits))
    (gradient,) = torch.autograd.grad(sinkhorn(logits), logits, probe)
    torch.testing.assert_close(gradient, backward(probe)[0], atol=1e-6, rtol=1e-5)
    assert gradient.abs().min() > 1e-5


def test_the_backward_keeps_the_logits_alone():
    """Not the results of forty divisions."""
    kept: list[int] = []
    logits = torch.randn(2, 5, 4, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        sinkhorn(logits)
    assert sum(kept) == logits.numel()


# What a connection does


def test_a_permutation_in_place_of_the_matrix_moves_the_streams():
    logits = 60 * torch.eye(3)[:, CYCLE] - 30  # M[j, k] = 1 where j = CYCLE^-1[k]
    connection = constant_connection([0.5] * 3, [1.0] * 3, logits, size=8)
    streams = random_streams()
    _, carried, _ = connection(streams)
    M = torch.eye(3)[:, CYCLE]
    torch.testing.assert_close(carried, torch.einsum("jk,btjc->btkc", M, streams), atol=1e-4, rtol=0)
    assert (carried - streams).abs().max() > 1


def test_streams_have_no_order():
    """Another order of streams, and of everything that belongs to them, gives the same in that order."""
    n, size = 3, 8
    connection, readout = random_connection(size, n), randomize(ManifoldReadout(size, n, site=4), seed=5)
    other, other_readout = ManifoldConnection(size, n, site=1), ManifoldReadout(size, n, site=4)
    rows = torch.cat((CYCLE, n + CYCLE, 2 * n + (n * CYCLE[:, None] + CYCLE).flatten()))
    with torch.no_grad():
        for target, source, order in ((other, connection, rows), (other_readout, readout, CYCLE)):
            target.load_state_dict(source.state_dict())
            target.weight.copy_(source.weight[order].unflatten(1, (n, size))[:, CYCLE].flatten(1))
            target.bias.copy_(source.bias[order])
        streams = random_streams(size, n)
        read, carried, post = connection(streams)
        other_read, other_carried, other_post = other(streams[:, :, CYCLE])
        torch.testing.assert_close(other_read, read)
        torch.testing.assert_close(other_carried, carried[:, :, CYCLE])
        torch.testing.assert_close(other_post, post[:, :, CYCLE])
        torch.testing.assert_close(other_readout(streams[:, :, CYCLE]), readout(streams))
        assert (other(streams)[0] - read).abs().max() > 0.1


MODULES = {
    "connection": lambda: ManifoldConnection(8, 3, site=1),
    "readout": lambda: ManifoldReadout(8, 3, site=4),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@torch.no_grad()
def test_coefficients_are_in_float32_whatever_the_streams_are(make):
    half, wide = randomize(make()).bfloat16(), make()
    wide.load_state_dict(half.state_dict())
    streams = random_streams(dtype=torch.bfloat16)

    def outputs(module: nn.Module, streams: Tensor) -> tuple[Tensor, ...]:
        found = module(streams)
        return found if isinstance(found, tuple) else (found,)

    expected = outputs(wide, streams.float())
    for i, (one, exact) in enumerate(zip(outputs(half, streams), expected, strict=True)):
        assert one.dtype == (torch.float32 if i == 2 else torch.bfloat16)  # the coefficients of the write
        assert torch.equal(one, exact.to(one.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = outputs(wide, streams.float())
    assert all(torch.equal(*pair) for pair in zip(under_autocast, expected, strict=True))


# Where it starts


@pytest.mark.parametrize("n", [2, 3, 4])
@torch.no_grad()
def test_no_two_streams_are_read_alike_at_the_start(n):
    """And each site reads another one most; all shares together are one, of every site and of the readout."""
    parts = {2: (2 / 3, 1 / 3), 3: (1 / 2, 1 / 3, 1 / 6), 4: (0.4, 0.3, 0.2, 0.1)}[n]
    for site in range(2 * n):
        for module in (ManifoldConnection(8, n, site), ManifoldReadout(8, n, site)):
            shares = []
            for k in range(n):
                streams = torch.zeros(1, 1, n, 8)
                streams[:, :, k] = 1
                read = module(streams)
                shares.append((read[0] if isinstance(read, tuple) else read)[0, 0, 0])
            expected = [parts[(k - site) % n] for k in range(n)]
            torch.testing.assert_close(torch.stack(shares), torch.tensor(expected), atol=2e-6, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 4])
@torch.no_grad()
def test_equal_streams_begin_as_a_residual_stream(n):
    """Of a single stream what is read is half, which the norm behind it makes whole."""
    sublayer, x = nn.Sequential(nn.RMSNorm(8, eps=0.0), nn.Linear(8, 8)), random_streams(8, 1).squeeze(2)
    streams, plain = x.unsqueeze(-2).repeat(1, 1, n, 1), x
    for site in range(6):
        connection = ManifoldConnection(8, n, site)
        read, carried, post = connection(streams)
        streams, plain = connection.write(sublayer(read), carried, post), plain + sublayer(plain)
    scale = 0.5 if n == 1 else 1
    torch.testing.assert_close(ManifoldReadout(8, n, site=6)(streams), scale * plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(streams, plain.unsqueeze(-2).expand_as(streams), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_is_refused():
    for kind in (ManifoldConnection, ManifoldReadout):
        for sizes in ((0, 2), (8, 0)):
            with pytest.raises(ValueError, match="must be at least 1"):
                kind(*sizes, site=0)
        with pytest.raises(ValueError, match=r"streams must be \[B, T, 2, D\]"):
            kind(8, 2, site=0)(torch.zeros(1, 3, 8))
