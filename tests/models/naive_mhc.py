"""mHC in float64, straight from the formulas of arXiv 2512.24880: token by token.

As in `naive.py`, weights come by their state-dict names, and nothing else is shared with the library. The streams of a
sequence are a list of n tensors `[T, D]`.
"""

import torch
from torch import Tensor

from tests.models.naive import NaiveDecoder, rms_norm, softmax

EPS = 1e-6


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def doubly_stochastic(logits: Tensor) -> Tensor:
    """Sinkhorn and Knopp's algorithm in DeepSeek-V4's order: 20 times rows, then columns; the first rows by softmax."""
    M = torch.stack([softmax(row) for row in logits]) + EPS
    for iteration in range(20):
        if iteration > 0:
            M = M / (M.sum(dim=1)[:, None] + EPS)
        M = M / (M.sum(dim=0)[None, :] + EPS)
    return M


class NaiveManifold(NaiveDecoder):
    def run(self, embedded: Tensor) -> list[Tensor]:
        streams = [embedded] * self.config.expansion_rate
        X = [embedded]
        for i in range(self.config.num_hidden_layers):
            streams = self.connected(i, "attn_connection", streams, lambda x, i=i: self.self_attention(i, x))
            streams = self.connected(i, "mlp_connection", streams, lambda x, i=i: self.normalized_mlp(i, x))
            X.append(self.read_out(streams))
        return X

    def self_attention(self, i: int, x: Tensor) -> Tensor:
        x = rms_norm(x, self.eps) * self.weight(i, "input_layernorm.weight")
        K = [self.head(i, "k_proj", h, x) for h in range(self.G)]
        V = [self.head(i, "v_proj", h, x) for h in range(self.G)]
        return self.attention(i, x, K, V)

    def normalized_mlp(self, i: int, x: Tensor) -> Tensor:
        return self.mlp(i, rms_norm(x, self.eps) * self.weight(i, "post_attention_layernorm.weight"))

    def connected(self, i: int, connection: str, streams: list[Tensor], sublayer) -> list[Tensor]:
        n, tokens = len(streams), len(streams[0])
        Phi, c = (self.weight(i, f"{connection}.{name}") for name in ("weight", "bias"))
        a_read, a_write, a_mix = (self.weight(i, f"{connection}.{name}_scale")[0] for name in ("read", "write", "mix"))
        reads, post, M = [], [], []
        for t in range(tokens):
            r = rms_norm(torch.cat([stream[t] for stream in streams]), EPS)
            pre = [sigmoid(a_read * (Phi[j] @ r) + c[j]) + EPS for j in range(n)]
            post.append([2 * sigmoid(a_write * (Phi[n + k] @ r) + c[n + k]) for k in range(n)])
            M.append(doubly_stochastic((a_mix * (Phi[2 * n :] @ r) + c[2 * n :]).reshape(n, n)))
            reads.append(sum(pre[j] * streams[j][t] for j in range(n)))
        y = sublayer(torch.stack(reads))
        return [
            torch.stack([post[t][k] * y[t] + sum(M[t][j, k] * streams[j][t] for j in range(n)) for t in range(tokens)])
            for k in range(n)
        ]

    def read_out(self, streams: list[Tensor]) -> Tensor:
        Phi, c, a = (self.weights[f"model.output_connection.{name}"] for name in ("weight", "bias", "scale"))
        rows = []
        for t in range(len(streams[0])):
            r = rms_norm(torch.cat([stream[t] for stream in streams]), EPS)
            shares = [sigmoid(a[0] * (Phi[k] @ r) + c[k]) + EPS for k in range(len(streams))]
            rows.append(sum(share * stream[t] for share, stream in zip(shares, streams, strict=True)))
        return torch.stack(rows)
