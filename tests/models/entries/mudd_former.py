"""MUDDFormer in float64, and what the suites have to know of it."""

import math

import torch
from torch import Tensor

from tests.models.entries.entry import Entry, each_layer
from tests.models.naive import rms_norm
from tests.models.naive_connected import NaiveConnected


def gelu(x: Tensor) -> Tensor:
    """The exact form, x Phi(x), which is torch's default; JAX's default is an approximation of it by tanh."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def mudd_weights(newest: Tensor, W1: Tensor, W2: Tensor, a: Tensor, eps: float, gain: Tensor | float = 1) -> Tensor:
    """w `[T, C, l]` for one state, with W1 `[D, K]`, W2 `[K, C l]`, a `[C, l]`."""
    ways, num_sources = a.shape
    w = []
    for t in range(len(newest)):
        z = gelu((rms_norm(newest[t], eps) * gain) @ W1)
        for c in range(ways):
            w += [z @ W2[:, c * num_sources + j] + a[c, j] for j in range(num_sources)]
    return torch.stack(w).view(len(newest), ways, num_sources)


def mudd_mix(X: list[Tensor], w: Tensor, c: int) -> Tensor:
    """Way c of the mixes of all sources, X^c."""
    return torch.stack([sum(w[t, c, j] * X[j][t] for j in range(len(X))) for t in range(len(X[0]))])


class NaiveMUDDFormer(NaiveConnected):
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
        self.weights_over_depth[i + 1].append(w.abs())
        mixes = [mudd_mix(sources, w, c) for c in range(len(a))]
        if normed:
            mixes[-1] = self.normed(i, "connection.residual_norm", mixes[-1])
            mixes = [newest + mix for mix in mixes]
        return mixes


def shapes(config):
    D, last = config.hidden_size, config.num_hidden_layers - 1
    found = {"model.source_norm.weight": (D,)} if config.pre_post_norm else {}
    for i, layer in each_layer(config):
        sources, ways, expansion = (i + 2, 1, 4) if i == last else (i + 2, 4, 1)
        K = (ways * sources * expansion // 64 + 1) * 64
        found |= {
            f"{layer}.connection.hidden.weight": (K, D),
            f"{layer}.connection.output.weight": (ways * sources, K),
            f"{layer}.connection.bias": (ways, sources),
        }
        norms = ["key_layernorm", "value_layernorm"] if i > 0 else []
        norms += ["source_norm", "connection.norm", "connection.residual_norm"] if config.pre_post_norm else []
        found |= {f"{layer}.{name}.weight": (D,) for name in norms}
    return found


NORMS = 2 * 11 * 768  # of keys and values
SOURCES = {r: tuple(range(r + 1)) for r in range(1, 5)}
SETS = (("queries", "keys", "values", "residual stream"), ("residual stream",))
ENTRY = Entry(
    variants={"mudd_former": {"num_key_value_heads": 2}, "mudd_former_norms": {"pre_post_norm": True}},
    naive=NaiveMUDDFormer,
    options={"pre_post_norm": False},
    shapes=shapes,
    counts=[({}, 610_689 + NORMS), ({"pre_post_norm": True}, 610_689 + NORMS + (1 + 3 * 12) * 768)],
    sources={"mudd_former": SOURCES, "mudd_former_norms": SOURCES},
    sets={"mudd_former": SETS, "mudd_former_norms": SETS},
)
