"""The other depth-connected models in float64, straight from the formulas, in the manner of `naive.py`.

Loops over sequences, layers, sublayers, tokens, heads and sources. Weights come by their state-dict names; nothing else
is shared with the library. A sequence is `[T, D]`; sources are listed with the oldest first.
"""

import math

import torch
from torch import Tensor

from tests.models.naive import NaiveDecoder, rms_norm, softmax


def gelu(x: Tensor) -> Tensor:
    """The exact form, x Phi(x), which is torch's default; JAX's default is an approximation of it by tanh."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def depth_weighted_average(X: list[Tensor], a: Tensor) -> Tensor:
    """DenseFormer: one scalar per source."""
    return sum(a[j] * X[j] for j in range(len(X)))


def depth_attention(
    v: list[Tensor],
    w: Tensor,
    g: Tensor,
    eps: float,
    num_heads: int = 1,
    temperature: float = 1.0,
    scale_by_sources: bool = False,
) -> Tensor:
    """Attention Residuals: a learned query w `[D]` looks for its sources, by token and group of channels."""
    tokens, D = v[0].shape
    size = D // num_heads
    k = [rms_norm(v_j, eps) * g for v_j in v]
    h = [[None] * num_heads for _ in range(tokens)]
    for t in range(tokens):
        for m in range(num_heads):
            part = slice(m * size, (m + 1) * size)
            alpha = softmax(torch.stack([w[part] @ k_j[t, part] for k_j in k]) / temperature)
            h[t][m] = sum(alpha[j] * v[j][t, part] for j in range(len(v)))
    read = torch.stack([torch.cat(parts) for parts in h])
    return len(v) * read if scale_by_sources else read


def mudd_weights(newest: Tensor, W1: Tensor, W2: Tensor, a: Tensor, eps: float, gain: Tensor | float = 1) -> Tensor:
    """MUDDFormer: w `[T, C, l]` for one state, with W1 `[D, K]`, W2 `[K, C l]`, a `[C, l]`."""
    ways, num_sources = a.shape
    w = []
    for t in range(len(newest)):
        z = gelu((rms_norm(newest[t], eps) * gain) @ W1)
        for c in range(ways):
            w += [z @ W2[:, c * num_sources + j] + a[c, j] for j in range(num_sources)]
    return torch.stack(w).view(len(newest), ways, num_sources)


def mudd_mix(X: list[Tensor], w: Tensor, c: int) -> Tensor:
    """MUDDFormer: way c of the mixes of all sources, X^c."""
    return torch.stack([sum(w[t, c, j] * X[j][t] for j in range(len(X))) for t in range(len(X[0]))])


def gated_sum(G: list[Tensor], b: Tensor, w: Tensor) -> Tensor:
    """DeepCrossAttention's GRN-v3: b `[n, D]` by source and channel, and a gate of each token's source, w `[D]`."""
    rows = []
    for t in range(len(G[0])):
        gates = [torch.clamp(w @ G_j[t], min=0) for G_j in G]
        rows.append(sum((b[j] + gates[j]) * G[j][t] for j in range(len(G))))
    return torch.stack(rows)


def recent_sources(x0: Tensor, deltas: list[Tensor], num_recent: int | None, sum_rest: bool) -> list[Tensor]:
    """DeepCrossAttention's sources: the embedding, the sum of the old deltas where asked for, the last `num_recent`."""
    old, recent = [], []
    for j, delta in enumerate(deltas):
        is_recent = num_recent is None or len(deltas) - j <= num_recent
        (recent if is_recent else old).append(delta)
    return [x0, *([sum(old)] if old and sum_rest else []), *recent]


class NaiveRival(NaiveDecoder):
    """Llama's sublayers under the names that all rivals have."""

    def normed(self, i: int, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, self.eps) * self.weight(i, f"{name}.weight")

    def self_attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of normalized inputs."""
        K = [self.head(i, "k_proj", h, k) for h in range(self.G)]
        V = [self.head(i, "v_proj", h, v) for h in range(self.G)]
        return self.attention(i, q, K, V)

    def attention_of(self, i: int, x: Tensor) -> Tensor:
        """What the attention adds, of its input before the norm."""
        normed = self.normed(i, "input_layernorm", x)
        return self.self_attention(i, normed, normed, normed)

    def mlp_of(self, i: int, x: Tensor) -> Tensor:
        """What the MLP adds, of its input before the norm."""
        return self.mlp(i, self.normed(i, "post_attention_layernorm", x))

    def block(self, i: int, x: Tensor) -> Tensor:
        """A Llama layer."""
        u = x + self.attention_of(i, x)
        return u + self.mlp_of(i, u)

    def sublayer(self, s: int, h: Tensor) -> Tensor:
        """What sublayer s = 0 ... 2L - 1 adds: attention and MLP in turn."""
        return self.mlp_of(s // 2, h) if s % 2 else self.attention_of(s // 2, h)

    def connection_weight(self, s: int, name: str) -> Tensor:
        return self.weight(s // 2, f"{'mlp' if s % 2 else 'attn'}_connection.{name}")


class NaiveResidualScalars(NaiveRival):
    def run(self, embedded: Tensor) -> list[Tensor]:
        x = embedded
        X = [x]
        for i in range(self.config.num_hidden_layers):
            r, s = self.weight(i, "connection.residual_scale"), self.weight(i, "connection.embedding_scale")
            x = self.block(i, r * x + s * embedded)
            X.append(x)
        return X


class NaiveDenseFormer(NaiveRival):
    def run(self, embedded: Tensor) -> list[Tensor]:
        X, Y = [embedded], [embedded]
        for n in range(1, self.config.num_hidden_layers + 1):
            X.append(self.block(n - 1, Y[-1]))
            if n % self.config.period == 0:
                sources = [X[j] for j in range(n + 1) if (n - j) % self.config.dilation == 0]
                Y.append(depth_weighted_average(sources, self.weight(n - 1, "connection.weight")))
            else:
                Y.append(X[n])
        return Y


class NaiveAttentionResiduals(NaiveRival):
    def run(self, embedded: Tensor) -> list[Tensor]:
        b = [embedded]  # the embedding and the sums of the blocks that are complete
        partial = None
        X = []
        for s in range(2 * self.config.num_hidden_layers):
            h = self.read([*b, *([] if partial is None else [partial])], *self.query_and_gain(s))
            if s % 2 == 0:
                X.append(h)
            v = self.sublayer(s, h)
            partial = v if partial is None else partial + v
            if (s + 1) % self.config.block_size == 0:
                b.append(partial)
                partial = None
        sources = [*b, *([] if partial is None else [partial])]
        names = ("model.output_connection.query", "model.output_connection.norm.weight")
        return [*X, self.read(sources, *(self.weights[name] for name in names))]

    def query_and_gain(self, s: int) -> tuple[Tensor, Tensor]:
        return self.connection_weight(s, "query"), self.connection_weight(s, "norm.weight")

    def read(self, sources: list[Tensor], w: Tensor, g: Tensor) -> Tensor:
        config = self.config
        return depth_attention(
            sources, w, g, self.eps, config.num_heads, config.softmax_temperature, config.scale_by_sources
        )


class NaiveDeltaAttentionResiduals(NaiveRival):
    def run(self, embedded: Tensor) -> list[Tensor]:
        x = embedded
        X = [x]
        sources = [embedded]
        group: list[Tensor] = []
        for s in range(2 * self.config.num_hidden_layers):
            w, g = self.connection_weight(s, "query"), self.connection_weight(s, "norm.weight")
            c = self.connection_weight(s, "gate") if self.config.gated else 1
            delta = self.sublayer(s, x + c * depth_attention(sources, w, g, self.eps))
            x = x + delta
            group.append(delta)
            if len(group) == self.config.block_size:
                sources.append(sum(group))
                group = []
            if s % 2:
                X.append(x)
        return X


class NaiveMUDDFormer(NaiveRival):
    def run(self, embedded: Tensor) -> list[Tensor]:
        sources = [self.as_source(embedded, "model.source_norm.weight")]
        q = k = v = r = embedded
        X = [r]
        for i in range(self.config.num_hidden_layers):
            q = self.normed(i, "input_layernorm", q)
            k = self.normed(i, "key_layernorm", k) if i else q
            v = self.normed(i, "value_layernorm", v) if i else q
            u = r + self.self_attention(i, q, k, v)
            newest = u + self.mlp_of(i, u)
            sources.append(self.as_source(newest, f"model.layers.{i}.source_norm.weight"))
            *others, r = self.ways(i, newest, sources)
            if others:  # there are none after the last layer
                q, k, v = others
            X.append(r)
        return X

    def as_source(self, x: Tensor, gain: str) -> Tensor:
        return rms_norm(x, self.eps) * self.weights[gain] if self.config.pre_post_norm else x

    def ways(self, i: int, newest: Tensor, sources: list[Tensor]) -> list[Tensor]:
        W1, W2 = self.weight(i, "connection.hidden.weight").T, self.weight(i, "connection.output.weight").T
        a = self.weight(i, "connection.bias")
        normed = self.config.pre_post_norm
        gain = self.weight(i, "connection.norm.weight") if normed else 1
        w = mudd_weights(newest, W1, W2, a, self.eps, gain)
        mixes = [mudd_mix(sources, w, c) for c in range(len(a))]
        if normed:
            mixes[-1] = self.normed(i, "connection.residual_norm", mixes[-1])
            mixes = [newest + mix for mix in mixes]
        return mixes


class NaiveDeepCrossAttention(NaiveRival):
    def run(self, embedded: Tensor) -> list[Tensor]:
        deltas: list[Tensor] = []
        X = []
        for i in range(self.config.num_hidden_layers):
            q, k, v = (self.gated(f"model.layers.{i}.{name}_connection", embedded, deltas) for name in WAYS)
            X.append(q if i else embedded)
            o = self.self_attention(
                i,
                self.normed(i, "input_layernorm", q),
                self.normed(i, "key_layernorm", k),
                self.normed(i, "value_layernorm", v),
            )
            deltas.append(o + self.mlp_of(i, q + o))
        return [*X, self.gated("model.output_connection", embedded, deltas)]

    def gated(self, name: str, embedded: Tensor, deltas: list[Tensor]) -> Tensor:
        sources = recent_sources(embedded, deltas, self.config.num_recent, self.config.sum_rest)
        return gated_sum(sources, self.weights[f"{name}.bias"], self.weights[f"{name}.gate"])


WAYS = ("query", "key", "value")
#: The float64 version of each model type.
RIVALS = {
    "residual_scalars": NaiveResidualScalars,
    "dense_former": NaiveDenseFormer,
    "attention_residuals": NaiveAttentionResiduals,
    "delta_attention_residuals": NaiveDeltaAttentionResiduals,
    "mudd_former": NaiveMUDDFormer,
    "deep_cross_attention": NaiveDeepCrossAttention,
}
