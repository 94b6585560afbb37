"""Routers of two other papers, which mix values alone: the keys are those that the layer makes from its own input.

Value Residual (Zhou et al. 2024, arXiv 2410.17897), V_i the values that layer i projects, the same for all heads:

    V'_i = l[i, 0] V_0 + l[i, 1] V_i                                    i >= 1

Depth-Attention (arXiv 2606.05014), for each token and key/value head, q the mean of the head's H / G queries:

    w    = softmax_j(q . k_j / sqrt(d))                                 j in the sources of layer i, and i itself
    V~_i = w_i V_i + sum_j w_j V~_j

Both read tensors that autograd knows, one for each layer that leaves one: there is one mix per token and head of width
d to make, no wider than the values themselves, so there are formulas only. Attention and cache get the mixed values.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import initialization as init

from limelm.routing.layer_router import LayerRouter, Routed
from limelm.routing.linear import whole
from limelm.routing.reference import weighted_mix
from limelm.routing.router import RouterSpec
from limelm.routing.sources import source_ids


class ValueRouter(LayerRouter):
    """The layer's own keys, and its values mixed with those of the same token in earlier layers."""

    reads_what = "A source is the values that a layer makes; each head's values are a mix of its own in earlier layers."
    makes_own_source = True

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.reads = spec.source_ids[:-1]  # its own values the layer makes itself
        self.num_rows = spec.num_heads


class ValueResidualRouter(ValueRouter):
    """Learnable Value Residual (arXiv 2410.17897): two scalars per layer, on the values of layer 0 and on its own.

    Layer 0's values are those before any mix, so nothing compounds. The scalars start at 0.5 ("paper"), or at 0 and 1
    ("identity": the model starts as Llama, exactly).
    """

    options = frozenset({"routing_trainable"})
    inits = ("paper", "identity")
    source_products = 1

    def __init__(self, spec: RouterSpec):
        super().__init__(replace(spec, sources={"first": 1, "last": 1}))
        if spec.layer_idx > 0:
            self.weight = nn.Parameter(torch.empty(self.spec.num_sources))

    def init_weights(self, std: float = 0.02) -> None:
        if self.spec.layer_idx > 0:
            init.copy_(self.weight, torch.tensor([0.5, 0.5] if self.spec.init == "paper" else [0.0, 1.0]))

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        return whole(self.weight).expand(self.spec.num_heads, -1)

    def forward(self, attention_input, gain, k_proj, v_proj, carrier=None, sources=(), query=None) -> Routed:
        K, V = self._own(attention_input, k_proj, v_proj)
        if self.spec.layer_idx == 0:
            return K, V, carrier, V
        return K, self.mixed(weighted_mix, (*sources, V), self.weight), carrier, None


class DepthAttentionRouter(ValueRouter):
    """Depth-Attention (arXiv 2606.05014): a token's queries attend over its keys in earlier layers, without parameters.

    A source is a layer's keys and mixed values. Queries and keys are compared before RoPE: both are the same token's,
    turned by the same angles, which leave their product as it is.
    """

    depends_on_tokens = True
    source_products = 2  # in the scores and in the mix

    @classmethod
    def default_sources(cls, num_layers: int) -> dict[str, int]:
        """The paper's stride of L / 2, and no window: layers 0 and L / 2."""
        return {"every": max(num_layers // 2, 1), "last": 1}

    @property
    def is_source(self) -> bool:
        """Whether later layers read this one, as the next does if any does."""
        return self.spec.layer_idx in source_ids(self.spec.layer_idx + 1, self.spec.sources)

    def routing_weights(self, query: Tensor, keys: Sequence[Tensor]) -> Tensor:
        """How much of each source a token's heads read, in float32.

        Args:
            query: `[B, T, H d]`; the query heads of a key/value head stand together.
            keys: `n` tensors `[B, T, G, d]`, the oldest first.

        Returns:
            `[B, T, G, n]`, which sums to 1.
        """
        pooled = query.reshape(*keys[0].shape[:3], -1, keys[0].shape[-1]).mean(dim=-2)
        scores = torch.stack([(pooled * key).sum(dim=-1, dtype=torch.float32) for key in keys], dim=-1)
        return (scores * pooled.shape[-1] ** -0.5).softmax(dim=-1)

    @torch.no_grad()
    def effective_weights(self, call: tuple | None = None) -> Tensor:
        if call is None:
            raise ValueError("the weights depend on the tokens: give the arguments of a call")
        attention_input, _, k_proj, _, _, sources, query = call
        keys = [source.chunk(2, dim=-1)[0] for source in sources]
        return self.routing_weights(query, [*keys, *self._own(attention_input, k_proj)])

    def forward(self, attention_input, gain, k_proj, v_proj, carrier=None, sources=(), query=None) -> Routed:
        K, V = self._own(attention_input, k_proj, v_proj)
        if self.reads:
            if query is None:
                raise TypeError("routing='depth_attention' weighs sources by the layer's queries: give query")
            keys, values = zip(*(source.chunk(2, dim=-1) for source in sources), (K, V), strict=True)
            V = self.mixed(weighted_mix, values, self.routing_weights(query, keys))
        return K, V, carrier, torch.cat((K, V), dim=-1) if self.is_source else None

    def directions(self, layer: nn.Module) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        raise LookupError("its routers compare a token's queries with its own keys, so no direction opens a route")
