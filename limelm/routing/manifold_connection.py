"""Manifold-constrained Hyper-Connections (mHC): streams that doubly stochastic matrices mix (arXiv 2512.24880).

With n streams X `[B, T, n, D]` and r = vec(X) / rms(vec(X)), over all n D features of a token and without a gain, a
sublayer f and its connection are

    [p, o, m] = split(r Phi^T, n | n | n^2)                       Phi [n^2 + 2n, n D]; the biases c likewise
    pre  = sigmoid(a_pre p + c_pre) + 1e-6                        how much of each stream is read
    post = 2 sigmoid(a_post o + c_post)                           how much is written to each
    M    = Sinkhorn(a_mix mat(m) + c_mix)                         rows and columns sum to 1
    h    = sum_j pre_j X_j;   y = f(h);   X'_k = post_k y + sum_j M[j, k] X_j

and what the model reads out of the streams in the end is sum_k (sigmoid(a (r Phi^T)_k + c_k) + 1e-6) X_k, Phi [n, n D].
The paper mixes with M as it is, DeepSeek-V4, whose form this is, with its transpose. All coefficients are computed in
float32 at least, whatever the streams' type is.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import initialization as init

from limelm.routing.hyper_connection import check_sizes, check_streams
from limelm.routing.module import CONNECTIONS, DepthModule
from limelm.routing.ops.backends import without_autocast
from limelm.routing.ops.rms_norm import is_transformed

ITERATIONS = 20
EPS = 1e-6
SCALE = 0.01  # of what depends on the streams, at the start


def sinkhorn(logits: Tensor) -> Tensor:
    """Make matrices with non-negative entries whose rows and columns sum to 1, of any `[..., n, n]`.

    A softmax over rows, then columns and rows are divided by their sums in turn, columns first and last.
    """
    logits = logits.movedim((-2, -1), (0, 1)).contiguous()  # sums over n numbers are fast where tokens lie together
    if torch.compiler.is_compiling() or is_transformed():
        normalized = _divisions(logits)[-1][0]
    else:
        normalized = _Sinkhorn.apply(logits)
    return normalized.movedim((0, 1), (-2, -1))


def _divisions(logits: Tensor) -> list[tuple[Tensor, Tensor, int]]:
    """Every division of `[n, n, ...]`: its result, what it divided by, and the dimension that this is the sum over."""
    M = torch.softmax(logits, dim=1) + EPS
    steps = []
    for dim in (0, *(1, 0) * (ITERATIONS - 1)):
        sums = M.sum(dim, keepdim=True) + EPS
        M = M / sums
        steps.append((M, sums, dim))
    return steps


class _Sinkhorn(torch.autograd.Function):
    """Keeps the logits for its backward, which divides again, not the results of all divisions."""

    @staticmethod
    def forward(ctx, logits):
        ctx.save_for_backward(logits)
        return _divisions(logits)[-1][0]

    @staticmethod
    def backward(ctx, grad):
        (logits,) = ctx.saved_tensors
        for M, sums, dim in reversed(_divisions(logits)):
            grad = (grad - (grad * M).sum(dim, keepdim=True)) / sums
        A = torch.softmax(logits, dim=1)
        return A * (grad - (grad * A).sum(1, keepdim=True))


def first_shares(num_streams: int, site: int) -> Tensor:
    """The logits `[n]` of what is read of each stream at the start: n, n - 1, ..., 1 parts, from stream site mod n on.

    All parts differ, as streams that are equal and read equally have equal gradients, and stay equal for ever. Together
    they are one; of a single stream it is half, which the norm behind makes whole.
    """
    n = num_streams
    if n == 1:
        return torch.zeros(1)
    shares = torch.arange(n, 0, -1).roll(site % n) / (n * (n + 1) / 2)
    return torch.logit(shares)


class ManifoldConnection(DepthModule):
    """The connection around one sublayer in mHC: the mix of streams that it reads, and how they go on.

    It is used as `HyperConnection`, but for the norm, which is the sublayer's own, and for the end:

        streams = x.unsqueeze(-2).repeat(1, 1, num_streams, 1)                       # once, after the embedding
        inputs, carried, post = connection(streams)                                  # around each sublayer
        streams = connection.write(sublayer(norm(inputs)), carried, post)
        x = readout(streams)                                                         # before the final norm

    Args:
        hidden_size: D.
        num_streams: n.
        site: the number of the sublayer, 2i for the attention of layer i and 2i + 1 for its MLP: see `first_shares`.
    """

    rule = CONNECTIONS

    def __init__(self, hidden_size: int, num_streams: int, site: int):
        super().__init__()
        check_sizes(hidden_size, num_streams)
        n = self.num_streams = num_streams
        self.site = site
        self.weight = nn.Parameter(torch.empty(n**2 + 2 * n, n * hidden_size))
        self.bias = nn.Parameter(torch.empty(n**2 + 2 * n))
        self.read_scale = nn.Parameter(torch.empty(1))
        self.write_scale = nn.Parameter(torch.empty(1))
        self.mix_scale = nn.Parameter(torch.empty(1))
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to pre-norm residual connections, up to 1e-6: streams are mixed evenly and written to alike."""
        bias = torch.zeros_like(self.bias)
        bias[: self.num_streams] = first_shares(self.num_streams, self.site)
        init.copy_(self.bias, bias)
        init.zeros_(self.weight)
        for scale in (self.read_scale, self.write_scale, self.mix_scale):
            init.constant_(scale, SCALE)

    def forward(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read X `[B, T, n, D]`: the sublayer's input `[B, T, D]`, the mixed streams, and post `[B, T, n]`."""
        n = self.num_streams
        check_streams(streams, n)
        with without_autocast(streams):
            X = _wide(streams)
            scales = torch.cat((self.read_scale.expand(n), self.write_scale.expand(n), self.mix_scale.expand(n**2)))
            logits = scales.to(X.dtype) * _project(X, self.weight) + self.bias.to(X.dtype)
            read, write, mix = logits.split((n, n, n**2), dim=-1)
            pre = torch.sigmoid(read) + EPS
            M = sinkhorn(mix.unflatten(-1, (n, n)))
            mixed = torch.cat((pre.unsqueeze(-1), M), dim=-1).transpose(-1, -2) @ X  # one pass over the streams
            return mixed[..., 0, :].to(streams.dtype), mixed[..., 1:, :].to(streams.dtype), 2 * torch.sigmoid(write)

    def write(self, output: Tensor, carried: Tensor, post: Tensor) -> Tensor:
        """The new streams `[B, T, n, D]` from the sublayer's output `[B, T, D]`."""
        return (post.unsqueeze(-1) * output.unsqueeze(-2) + carried).to(carried.dtype)


class ManifoldReadout(DepthModule):
    """The end of mHC's streams: a mix of them, whose weights depend on all of them.

    Args:
        hidden_size: D.
        num_streams: n.
        site: one more than the last sublayer's.
    """

    rule = CONNECTIONS

    def __init__(self, hidden_size: int, num_streams: int, site: int):
        super().__init__()
        self.site = site
        check_sizes(hidden_size, num_streams)
        self.weight = nn.Parameter(torch.empty(num_streams, num_streams * hidden_size))
        self.bias = nn.Parameter(torch.empty(num_streams))
        self.scale = nn.Parameter(torch.empty(1))
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize as what a sublayer reads."""
        init.zeros_(self.weight)
        init.copy_(self.bias, first_shares(self.bias.numel(), self.site).to(self.bias))
        init.constant_(self.scale, SCALE)

    def forward(self, streams: Tensor) -> Tensor:
        """Read X `[B, T, n, D]` out: `[B, T, D]`."""
        check_streams(streams, self.bias.numel())
        with without_autocast(streams):
            X = _wide(streams)
            logits = self.scale.to(X.dtype) * _project(X, self.weight) + self.bias.to(X.dtype)
            weights = torch.sigmoid(logits) + EPS
            return (weights.unsqueeze(-2) @ X).squeeze(-2).to(streams.dtype)


def _wide(values: Tensor) -> Tensor:
    """Convert to float32, but for what is in float64."""
    return values if values.dtype == torch.float64 else values.float()


def _project(X: Tensor, weight: Tensor) -> Tensor:
    """r Phi^T of streams `[B, T, n, D]`: what is the same for all features, 1 / rms, comes after the product."""
    flat = X.flatten(-2)
    return linear(flat, weight.to(X.dtype)) * torch.rsqrt(flat.pow(2).mean(-1, keepdim=True) + EPS)
