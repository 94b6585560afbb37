"""Hyper-Connections: several residual streams, and how each sublayer reads and writes them (arXiv 2409.19606)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from transformers import initialization as init

from limelm.routing.module import CONNECTION_MATRICES, CONNECTIONS, DepthModule, Rule
from limelm.routing.ops.backends import autocast_dtype, without_autocast

LAYER_NORM_EPS = 1e-5


def plain_norm(states: Tensor) -> Tensor:
    """LayerNorm over the last dimension, without gain and bias; under autocast in float32, as CUDA does by itself."""
    if autocast_dtype(states.device) is not None:
        states = states.float()
    return layer_norm(states, states.shape[-1:], eps=LAYER_NORM_EPS)


def check_sizes(hidden_size: int, num_streams: int) -> None:
    """Refuse sizes of which no connection can be made.

    Raises:
        ValueError: for one below 1.
    """
    if hidden_size < 1 or num_streams < 1:
        raise ValueError(f"hidden_size={hidden_size} and num_streams={num_streams} must be at least 1")


def check_streams(streams: Tensor, num_streams: int) -> None:
    """Refuse what are not the streams of a connection.

    Raises:
        ValueError: for another shape.
    """
    if streams.ndim != 4 or streams.shape[-2] != num_streams:
        raise ValueError(f"streams must be [B, T, {num_streams}, D], not {tuple(streams.shape)}")


class HyperConnection(DepthModule):
    """The connection around one sublayer: the mix of streams that it reads, and the streams it is added to.

    With n streams S `[B, T, n, D]`, alpha `[n, n + 1]` and beta `[n]` (equations 2-5; 10-13 where dynamic):
    M = alpha^T S; the sublayer f reads M_0; the streams become beta f(norm(M_0)) + M_1...n. In a model of one's own:

        streams = x.unsqueeze(-2).repeat(1, 1, num_streams, 1)                       # once, after the embedding
        inputs, carried, beta = connection(streams)                                  # around each sublayer
        streams = connection.write(sublayer(inputs), carried, beta)
        x = streams.sum(dim=-2)                                                      # before the final norm

    Args:
        hidden_size: D.
        num_streams: n.
        layer_idx: i of the layer; its sublayers begin by reading stream i mod n.
        dynamic: alpha and beta depend on the streams (DHC); else they are learned constants (SHC).
    """

    def __init__(self, hidden_size: int, num_streams: int, layer_idx: int, dynamic: bool = True):
        super().__init__()
        check_sizes(hidden_size, num_streams)
        n = num_streams
        self.layer_idx = layer_idx
        self.dynamic = dynamic
        self.static_alpha = nn.Parameter(torch.empty(n, n + 1))
        self.static_beta = nn.Parameter(torch.empty(n))
        if self.dynamic:
            self.dynamic_alpha = nn.Parameter(torch.empty(hidden_size, n + 1))
            self.dynamic_beta = nn.Parameter(torch.empty(hidden_size))
            self.alpha_scale = nn.Parameter(torch.empty(1))
            self.beta_scale = nn.Parameter(torch.empty(1))
        self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize to pre-norm residual connections: the sublayer reads stream i mod n and writes to all."""
        n = self.static_beta.numel()
        first_read = torch.zeros_like(self.static_alpha[:, :1])
        first_read[self.layer_idx % n] = 1
        carried = torch.eye(n, dtype=self.static_alpha.dtype, device=self.static_alpha.device)
        init.copy_(self.static_alpha, torch.cat((first_read, carried), dim=1))
        init.ones_(self.static_beta)
        if self.dynamic:
            init.zeros_(self.dynamic_alpha)
            init.zeros_(self.dynamic_beta)
            init.constant_(self.alpha_scale, 0.01)
            init.constant_(self.beta_scale, 0.01)

    def parameter_rules(self) -> dict[str, Rule]:
        """The dynamic matrices decay, the static parameters and scales do not."""
        names = [name for name, _ in self.named_parameters(recurse=False)]
        return {name: CONNECTION_MATRICES if name.startswith("dynamic_") else CONNECTIONS for name in names}

    def forward(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read S `[B, T, n, D]`: the sublayer's input `[B, T, D]`, the carried streams, beta `[B, T, n]` or `[n]`."""
        check_streams(streams, self.static_beta.numel())
        alpha: Tensor = self.static_alpha
        beta: Tensor = self.static_beta
        if self.dynamic:
            W = torch.cat((self.dynamic_alpha, self.dynamic_beta.unsqueeze(-1)), dim=-1)  # one pass over the streams
            dynamic = torch.tanh(plain_norm(streams) @ W)  # [B, T, n, n + 2]
            alpha = alpha + self.alpha_scale * dynamic[..., :-1]
            beta = beta + self.beta_scale * dynamic[..., -1]
        with without_autocast(streams):  # which would round the residual streams
            M = alpha.transpose(-1, -2).to(streams.dtype) @ streams
        return plain_norm(M[..., 0, :]), M[..., 1:, :], beta.to(streams.dtype)

    def write(self, output: Tensor, carried: Tensor, beta: Tensor) -> Tensor:
        """The new streams `[B, T, n, D]` from the sublayer's output `[B, T, D]`."""
        return beta.unsqueeze(-1) * output.unsqueeze(-2) + carried
