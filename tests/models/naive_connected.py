"""The common parts of float64 loops of models with another connection over depth, in the manner of `naive.py`.

Loops over sequences, layers, sublayers, tokens, heads and sources. Weights come by their state-dict names; nothing else
is shared with the library. A sequence is `[T, D]`; sources are listed with the oldest first.
"""

from collections import defaultdict

from torch import Tensor

from tests.models.naive import NaiveDecoder, rms_norm


class NaiveConnected(NaiveDecoder):
    """Llama's sublayers under the names that all models with another connection have.

    Attributes:
        weights_over_depth: by place, as a layer's connection stands `at`, the weights `[T, rows, n]` of every sequence
            so far, for comparison with what the library says of them.
    """

    def __init__(self, config, weights):
        super().__init__(config, weights)
        self.weights_over_depth: dict[int, list[Tensor]] = defaultdict(list)

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
