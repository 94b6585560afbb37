"""DeepCrossAttention in float64, and what the suites have to know of it."""

import torch
from torch import Tensor

from tests.models.entries.entry import Entry, each_layer
from tests.models.naive_connected import NaiveConnected

WAYS = ("query", "key", "value")


def source_gates(G: list[Tensor], w: Tensor) -> Tensor:
    """GRN-v3's gate of each token's source, by w `[D]`: `[T, n]`."""
    return torch.stack([torch.stack([torch.clamp(w @ G_j[t], min=0) for G_j in G]) for t in range(len(G[0]))])


def gated_sum(G: list[Tensor], b: Tensor, gates: Tensor) -> Tensor:
    """GRN-v3: the sources by b `[n, D]`, for each source and channel, and their gates."""
    return torch.stack([sum((b[j] + gates[t, j]) * G[j][t] for j in range(len(G))) for t in range(len(G[0]))])


def recent_sources(x0: Tensor, deltas: list[Tensor], num_recent: int | None, sum_rest: bool) -> list[Tensor]:
    """The embedding, the sum of the old deltas where asked for, the last `num_recent`."""
    old, recent = [], []
    for j, delta in enumerate(deltas):
        is_recent = num_recent is None or len(deltas) - j <= num_recent
        (recent if is_recent else old).append(delta)
    return [x0, *([sum(old)] if old and sum_rest else []), *recent]


class NaiveDeepCrossAttention(NaiveConnected):
    def run(self, embedded: Tensor) -> list[Tensor]:
        deltas: list[Tensor] = []
        X = []
        for i in range(self.config.num_hidden_layers):
            q, k, v = self.read(i, [f"model.layers.{i}.{name}_connection" for name in WAYS], embedded, deltas)
            X.append(q if i else embedded)
            o = self.self_attention(
                i,
                self.normed(i, "input_layernorm", q),
                self.normed(i, "key_layernorm", k),
                self.normed(i, "value_layernorm", v),
            )
            deltas.append(o + self.mlp_of(i, q + o))
        return [*X, *self.read(self.config.num_hidden_layers, ["model.output_connection"], embedded, deltas)]

    def read(self, place: int, names: list[str], embedded: Tensor, deltas: list[Tensor]) -> list[Tensor]:
        sources = recent_sources(embedded, deltas, self.config.num_recent, self.config.sum_rest)
        mixes, sizes = [], []
        for name in names:
            b, gates = self.weights[f"{name}.bias"], source_gates(sources, self.weights[f"{name}.gate"])
            mixes.append(gated_sum(sources, b, gates))
            sizes.append((b[: len(sources)] + gates[:, :, None]).abs().mean(dim=-1))
        self.weights_over_depth[place].append(torch.stack(sizes, dim=1))
        return mixes


def number_of_sources(config, layers: int) -> int:
    """The sources after so many layers: x_0, the rest, the recent ones."""
    recent = layers if config.num_recent is None else min(layers, config.num_recent)
    return 1 + recent + (config.sum_rest and layers > recent)


def shapes(config):
    D, found = config.hidden_size, {}
    places = [(i, f"{layer}.{name}_connection") for i, layer in each_layer(config) for name in WAYS]
    for i, place in [*places, (config.num_hidden_layers, "model.output_connection")]:
        found |= {f"{place}.bias": (number_of_sources(config, i), D), f"{place}.gate": (D,)}
    norms = [f"{layer}.{name}_layernorm.weight" for _, layer in each_layer(config) for name in ("key", "value")]
    return found | dict.fromkeys(norms, (D,))


NORMS = 2 * 12  # of keys and values
SETS = (("queries", "keys", "values"), ("queries",))
ENTRY = Entry(
    variants={"deep_cross_attention": {}, "deep_cross_attention_recent": {"num_recent": 1, "num_key_value_heads": 2}},
    naive=NaiveDeepCrossAttention,
    options={"num_recent": None, "sum_rest": True},
    shapes=shapes,
    counts=[
        ({}, 218_112 + NORMS * 768),
        ({"num_recent": 2, "sum_rest": False}, (3 * (2 + 3 + 10 * 4) + 4 + NORMS) * 768),
        ({"num_recent": 2}, (3 * (2 + 3 + 4 + 9 * 5) + 5 + NORMS) * 768),
    ],
    starts={"deep_cross_attention": None, "deep_cross_attention_recent": None},  # the gates are drawn
    sources={
        "deep_cross_attention": {r: tuple(range(r + 1)) for r in range(1, 5)},
        # The embedding, the sum of what older layers added, and the last.
        "deep_cross_attention_recent": {1: (0, 1), 2: (0, 1, 2), 3: (0, 2, 3), 4: (0, 3, 4)},
    },
    sets={"deep_cross_attention": SETS, "deep_cross_attention_recent": SETS},
)
