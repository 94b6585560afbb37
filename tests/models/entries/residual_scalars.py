"""Residual scalars in float64, and what the suites have to know of them."""

import torch
from torch import Tensor

from tests.models.entries.entry import Entry, each_layer
from tests.models.naive_connected import NaiveConnected


class NaiveResidualScalars(NaiveConnected):
    def run(self, embedded: Tensor) -> list[Tensor]:
        x = embedded
        X = [x]
        for i in range(self.config.num_hidden_layers):
            r, s = self.weight(i, "connection.residual_scale"), self.weight(i, "connection.embedding_scale")
            self.weights_over_depth[i].append(torch.stack([s, r], dim=-1)[None].abs())
            x = self.block(i, r * x + s * embedded)
            X.append(x)
        return X


def shapes(config):
    names = ("residual_scale", "embedding_scale")
    return {f"{layer}.connection.{name}": (1,) for _, layer in each_layer(config) for name in names}


ENTRY = Entry(
    variants={"residual_scalars": {"num_key_value_heads": 2}},
    naive=NaiveResidualScalars,
    options={},
    shapes=shapes,
    counts=[({}, 24)],
    sources={"residual_scalars": {1: (0, 1), 2: (0, 2), 3: (0, 3)}},
)
