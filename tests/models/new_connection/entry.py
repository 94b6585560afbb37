"""The connection of `mean_read.py` in float64, and what the suites have to know of it."""

import torch
from torch import Tensor

from tests.models.entries.entry import Entry, each_layer
from tests.models.naive_connected import NaiveConnected


class NaiveMeanRead(NaiveConnected):
    def run(self, embedded: Tensor) -> list[Tensor]:
        X = [embedded]
        for i in range(self.config.num_hidden_layers):
            read = X[i]
            if i >= self.config.first_layer:
                c = self.weight(i, "connection.weight")[0]
                weights = [c / (i + 1) + (j == i) for j in range(i + 1)]
                self.weights_over_depth[i].append(torch.stack(weights)[None, None].abs())
                read = X[i] + c * sum(X) / (i + 1)
            X.append(self.block(i, read))
        return X


ENTRY = Entry(
    variants={"mean_read": {"num_key_value_heads": 2}},
    naive=NaiveMeanRead,
    options={"first_layer": 1},
    shapes=lambda config: {
        f"{layer}.connection.weight": (1,) for i, layer in each_layer(config) if i >= config.first_layer
    },
    counts=[({}, 11), ({"first_layer": 6}, 6)],
    sources={"mean_read": {1: (0, 1), 2: (0, 1, 2), 3: (0, 1, 2, 3)}},
)
