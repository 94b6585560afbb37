"""Attached connections and Value Residual in float64, straight from their formulas, around a naive Llama's layers."""

import torch
from torch import Tensor

from tests.models.entries.attention_residuals import depth_attention, depth_attention_weights
from tests.models.entries.dense_former import depth_weighted_average
from tests.models.naive import NaiveDecoder, rms_norm
from tests.models.naive_mhc import EPS, doubly_stochastic, sigmoid


class NaiveAttached(NaiveDecoder):
    """A Llama, behind each layer of which `connect` changes what it hands on."""

    def __init__(self, model):
        super().__init__(model.config, {name: value.detach().double() for name, value in model.state_dict().items()})

    def run(self, embedded: Tensor) -> list[Tensor]:
        X = [embedded]
        self.begin(embedded)
        for i in range(self.config.num_hidden_layers):
            attention_input = rms_norm(X[i], self.eps) * self.weight(i, "input_layernorm.weight")
            K, V = ([self.head(i, name, h, attention_input) for h in range(self.G)] for name in ("k_proj", "v_proj"))
            x = X[i] + self.attention(i, attention_input, K, self.values(i, V))
            x = x + self.mlp(i, rms_norm(x, self.eps) * self.weight(i, "post_attention_layernorm.weight"))
            X.append(self.connect(i, X[i], x))
        return X

    def own(self, i: int, name: str) -> Tensor:
        return self.weight(i, f"self_attn.router.{name}")

    def begin(self, x0: Tensor) -> None:
        self.x0 = x0
        self.outputs = [x0]
        self.deltas = [x0]

    def values(self, i: int, V: list[Tensor]) -> list[Tensor]:
        return V

    def connect(self, i: int, h: Tensor, x: Tensor) -> Tensor:
        return x


class NaiveValueResidual(NaiveAttached):
    def values(self, i: int, V: list[Tensor]) -> list[Tensor]:
        if i == 0:
            self.first = V
            return V
        w = self.own(i, "weight")
        return [w[0] * first + w[1] * own for first, own in zip(self.first, V, strict=True)]


class NaiveScalars(NaiveAttached):
    def connect(self, i: int, h: Tensor, x: Tensor) -> Tensor:
        return self.own(i, "scalars.residual_scale") * x + self.own(i, "scalars.embedding_scale") * self.x0


class NaiveDense(NaiveAttached):
    def connect(self, i: int, h: Tensor, x: Tensor) -> Tensor:
        self.outputs.append(x)
        return depth_weighted_average(self.outputs, self.own(i, "average.weight"))


class NaiveAttentionResiduals(NaiveAttached):
    def mix(self, i: int, scaled: bool) -> Tensor:
        query, gain = self.own(i, "attention.query"), self.own(i, "attention.norm.weight")
        return depth_attention(self.deltas, depth_attention_weights(self.deltas, query, gain, 1e-6), scaled)

    def connect(self, i: int, h: Tensor, x: Tensor) -> Tensor:
        self.deltas.append(x - h)
        return self.mix(i, scaled=True)


class NaiveDeltaAttentionResiduals(NaiveAttentionResiduals):
    def connect(self, i: int, h: Tensor, x: Tensor) -> Tensor:
        self.deltas.append(x - h)
        return sum(self.deltas) + self.own(i, "attention.gate") * self.mix(i, scaled=False)


class NaiveManifoldConnection(NaiveAttached):
    n = 4

    def connect(self, i: int, h: Tensor, x: Tensor) -> Tensor:
        """Token by token, as in `naive_mhc.py`; here a layer is written before the next one is read."""
        n, last = self.n, i == self.config.num_hidden_layers - 1
        if i == 0:
            self.streams = [x] * n
        else:
            y = x - h
            self.streams = [
                torch.stack(
                    [
                        self.post[t][k] * y[t] + sum(self.M[t][j, k] * self.streams[j][t] for j in range(n))
                        for t in range(len(y))
                    ]
                )
                for k in range(n)
            ]
        Phi, c = self.own(i, "connection.weight"), self.own(i, "connection.bias")
        names = ["scale"] if last else ["read_scale", "write_scale", "mix_scale"]
        scales = [self.own(i, f"connection.{name}")[0] for name in names]
        self.post, self.M, rows = [], [], []
        for t in range(len(x)):
            r = rms_norm(torch.cat([stream[t] for stream in self.streams]), EPS)
            p = Phi @ r
            shares = [sigmoid(scales[0] * p[j] + c[j]) + EPS for j in range(n)]
            rows.append(sum(share * stream[t] for share, stream in zip(shares, self.streams, strict=True)))
            if not last:
                self.post.append([2 * sigmoid(scales[1] * p[n + k] + c[n + k]) for k in range(n)])
                self.M.append(doubly_stochastic((scales[2] * p[2 * n :] + c[2 * n :]).reshape(n, n)))
        return torch.stack(rows)


NAIVE = {
    "value-residual": NaiveValueResidual,
    "residual-scalars": NaiveScalars,
    "dense": NaiveDense,
    "attnres": NaiveAttentionResiduals,
    "delta-attnres": NaiveDeltaAttentionResiduals,
    "mhc": NaiveManifoldConnection,
}
