"""A linear layer whose output heads read different inputs."""

from torch import Tensor, einsum, nn


class HeadwiseLinear(nn.Linear):
    """`K_h = Z_h W_h`: a `k_proj`/`v_proj` whose head `h` reads an input of its own.

    The parameters are those of `nn.Linear(hidden_size, num_heads * head_dim)`; rows `h * head_dim` and on are head `h`.
    """

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int, bias: bool = False):
        super().__init__(hidden_size, num_heads * head_dim, bias=bias)
        self.num_heads = num_heads

    def forward(self, mixed: Tensor) -> Tensor:
        """Project `[B, T, G, D]` to `[B, T, G, head_dim]`."""
        heads = einsum("btgd,ged->btge", mixed, self.weight.unflatten(0, (self.num_heads, -1)))
        return heads if self.bias is None else heads + self.bias.unflatten(0, (self.num_heads, -1))
