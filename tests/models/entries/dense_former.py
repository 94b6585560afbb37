"""DenseFormer in float64, and what the suites have to know of it."""

from torch import Tensor

from tests.models.entries.entry import Entry, each_layer
from tests.models.naive_connected import NaiveConnected


def depth_weighted_average(X: list[Tensor], a: Tensor) -> Tensor:
    """One scalar per source."""
    return sum(a[j] * X[j] for j in range(len(X)))


class NaiveDenseFormer(NaiveConnected):
    def run(self, embedded: Tensor) -> list[Tensor]:
        X, Y = [embedded], [embedded]
        for n in range(1, self.config.num_hidden_layers + 1):
            X.append(self.block(n - 1, Y[-1]))
            if n % self.config.period == 0:
                sources = [X[j] for j in range(n + 1) if (n - j) % self.config.dilation == 0]
                a = self.weight(n - 1, "connection.weight")
                self.weights_over_depth[n].append(a[None, None].abs())
                Y.append(depth_weighted_average(sources, a))
            else:
                Y.append(X[n])
        return Y


def shapes(config):
    averaged = [(i + 1, layer) for i, layer in each_layer(config) if (i + 1) % config.period == 0]
    return {f"{layer}.connection.weight": (n // config.dilation + 1,) for n, layer in averaged}


ENTRY = Entry(
    variants={"dense_former": {"dilation": 2, "num_key_value_heads": 2}},
    naive=NaiveDenseFormer,
    options={"period": 1, "dilation": 1},
    shapes=shapes,
    counts=[({}, 90), ({"period": 5, "dilation": 4}, 5 // 4 + 1 + 10 // 4 + 1)],
    sources={"dense_former": {2: (0, 2), 3: (1, 3), 4: (0, 2, 4)}},
)
