"""Delta Attention Residuals in float64, and what the suites have to know of them."""

from torch import Tensor

from tests.models.entries.attention_residuals import (
    depth_attention,
    depth_attention_weights,
    has_one_source,
    shapes_of_sublayers,
)
from tests.models.entries.entry import Entry
from tests.models.naive_connected import NaiveConnected


class NaiveDeltaAttentionResiduals(NaiveConnected):
    def run(self, embedded: Tensor) -> list[Tensor]:
        x = embedded
        X = [x]
        sources = [embedded]
        group: list[Tensor] = []
        for s in range(2 * self.config.num_hidden_layers):
            w, g = self.connection_weight(s, "query"), self.connection_weight(s, "norm.weight")
            c = self.connection_weight(s, "gate") if self.config.gated else 1
            alpha = depth_attention_weights(sources, w, g, self.eps)
            self.weights_over_depth[s].append(alpha)
            delta = self.sublayer(s, x + c * depth_attention(sources, alpha))
            x = x + delta
            group.append(delta)
            if len(group) == self.config.block_size:
                sources.append(sum(group))
                group = []
            if s % 2:
                X.append(x)
        return X


ENTRY = Entry(
    variants={"delta_attention_residuals": {"num_key_value_heads": 2}},
    naive=NaiveDeltaAttentionResiduals,
    options={"block_size": 1, "gated": False},
    shapes=shapes_of_sublayers,
    counts=[({}, 36_864), ({"block_size": 4, "gated": True}, 36_864 + 24)],
    starts={"delta_attention_residuals": 1e-5},
    idle=has_one_source,
    sources={"delta_attention_residuals": {r: tuple(range(r + 1)) for r in range(1, 8)}},
    sets={"delta_attention_residuals": (("sublayers",), ("sublayers",))},
)
