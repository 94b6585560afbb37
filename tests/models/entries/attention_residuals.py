"""Attention Residuals in float64, and what the suites have to know of them."""

import torch
from torch import Tensor

from tests.models.entries.entry import Entry, each_layer
from tests.models.naive import rms_norm, softmax
from tests.models.naive_connected import NaiveConnected


def depth_attention_weights(
    v: list[Tensor], w: Tensor, g: Tensor, eps: float, num_heads: int = 1, temperature: float = 1.0
) -> Tensor:
    """How a learned query w `[D]` weighs its sources, by token and group of channels: `[T, M, n]`."""
    size = len(w) // num_heads
    k = [rms_norm(v_j, eps) * g for v_j in v]
    rows = []
    for t in range(len(v[0])):
        parts = [slice(m * size, (m + 1) * size) for m in range(num_heads)]
        rows.append([softmax(torch.stack([w[part] @ k_j[t, part] for k_j in k]) / temperature) for part in parts])
    return torch.stack([torch.stack(alpha) for alpha in rows])


def depth_attention(v: list[Tensor], alpha: Tensor, scale_by_sources: bool = False) -> Tensor:
    """The sources, `[T, D]` each, by such weights."""
    tokens, num_heads, n = alpha.shape
    size = v[0].shape[-1] // num_heads
    rows = []
    for t in range(tokens):
        parts = [(m, slice(m * size, (m + 1) * size)) for m in range(num_heads)]
        rows.append(torch.cat([sum(alpha[t, m, j] * v[j][t, part] for j in range(n)) for m, part in parts]))
    return n * torch.stack(rows) if scale_by_sources else torch.stack(rows)


class NaiveAttentionResiduals(NaiveConnected):
    def run(self, embedded: Tensor) -> list[Tensor]:
        b = [embedded]  # the embedding and the sums of the blocks that are complete
        partial = None
        X = []
        for s in range(2 * self.config.num_hidden_layers):
            query, gain = self.connection_weight(s, "query"), self.connection_weight(s, "norm.weight")
            h = self.read(s, [*b, *([] if partial is None else [partial])], query, gain)
            if s % 2 == 0:
                X.append(h)
            v = self.sublayer(s, h)
            partial = v if partial is None else partial + v
            if (s + 1) % self.config.block_size == 0:
                b.append(partial)
                partial = None
        sources = [*b, *([] if partial is None else [partial])]
        names = ("model.output_connection.query", "model.output_connection.norm.weight")
        return [*X, self.read(2 * self.config.num_hidden_layers, sources, *(self.weights[name] for name in names))]

    def read(self, place: int, sources: list[Tensor], w: Tensor, g: Tensor) -> Tensor:
        config = self.config
        alpha = depth_attention_weights(sources, w, g, self.eps, config.num_heads, config.softmax_temperature)
        self.weights_over_depth[place].append(alpha)
        return depth_attention(sources, alpha, config.scale_by_sources)


def shapes_of_sublayers(config):
    connections = [f"{layer}.{name}_connection" for _, layer in each_layer(config) for name in ("attn", "mlp")]
    return {f"{name}.{part}": (config.hidden_size,) for name in connections for part in ("query", "norm.weight")}


def shapes(config):
    output = {f"model.output_connection.{part}": (config.hidden_size,) for part in ("query", "norm.weight")}
    return shapes_of_sublayers(config) | output


def has_one_source(name: str) -> bool:
    """Whether it is of the first attention over depth, which has one source, and so nothing to choose."""
    return name.startswith("model.layers.0.attn_connection") and name.endswith(("query", "norm.weight"))


ENTRY = Entry(
    variants={"attention_residuals": {"block_size": 3, "num_heads": 2, "num_key_value_heads": 2}},
    naive=NaiveAttentionResiduals,
    options={"block_size": 1, "num_heads": 1, "softmax_temperature": 1.0, "scale_by_sources": False},
    shapes=shapes,
    counts=[({}, 38_400), ({"block_size": 4, "num_heads": 4}, 38_400)],
    starts={"attention_residuals": 1e-5},
    idle=has_one_source,
    # Blocks of three sublayers: 0-2 end with delta 3, 3-5 with delta 6; the block under way ends with the newest delta.
    sources={
        "attention_residuals": {
            1: (0, 1),
            2: (0, 2),
            3: (0, 3),
            4: (0, 3, 4),
            5: (0, 3, 5),
            6: (0, 3, 6),
            7: (0, 3, 6, 7),
            8: (0, 3, 6, 8),
        }
    },
    sets={"attention_residuals": (("sublayers",), ("sublayers",))},
)
