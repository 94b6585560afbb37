"""Connections over depth between the layers of a model that was trained without them.

A connection stands behind a layer i, with h the layer's input and X what came out of it: it changes what the layer
hands on, by what the layers before have left. Where a native model has a connection around every sublayer, here it is
around whole layers, whose inside differs from family to family. Each starts as the identity: at attach time a model
computes what it did. Sources are numbered as in `limelm.models.connected`: 0 is the embedding x_0.
"""

from typing import Any, ClassVar

from torch import Tensor

from limelm.models.attention_residuals import DepthAttention
from limelm.models.delta_attention_residuals import DeltaAttention
from limelm.models.dense_former import DepthWeightedAverage
from limelm.models.residual_scalars import ResidualScalars
from limelm.routing import DepthModule, ManifoldConnection, ManifoldReadout, RouterSpec, weighted_mix
from limelm.routing.module import ROUTING_WEIGHTS

NORM_EPS = 1e-6  # of the sources, in their products with a query
STREAMS = 4

#: What the layers of one forward have left so far, by the numbers of sources: 0 by the first, i + 1 by layer i. A layer
#: that runs again for its backward writes the same again.
Left = dict[int, Any]


class AttachedConnection(DepthModule):
    """The connection behind a layer of a model of another family, made of a native model's.

    Args:
        spec: of the layer.

    Attributes:
        own_source: the number of the source that this layer leaves.
    """

    #: The arguments of `attach` that this kind understands, beyond the routing.
    options: ClassVar[frozenset[str]] = frozenset()
    #: Whether the native part has weights over depth to look at.
    weighs_sources: ClassVar[bool] = True
    #: What it is, as the card of an adapter says it.
    called: ClassVar[str] = "Connections over depth"
    rule = ROUTING_WEIGHTS  # a native one learns at the rate of the rest

    def __init__(self, spec: RouterSpec):
        super().__init__()
        self.layer_idx = spec.layer_idx
        self.own_source = spec.layer_idx + 1

    def forward(self, layer_input: Tensor, output: Tensor, left: Left) -> Tensor:
        """Change what the layer hands on, `[..., D]`.

        Args:
            layer_input, output: h and X.
            left: what earlier layers left; takes in what this one leaves.
        """
        raise NotImplementedError


class AttachedResidualScalars(AttachedConnection):
    """`r X + s x_0`, two numbers per layer; r starts at 1, s at 0."""

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.scalars = ResidualScalars().at(self.own_source, (0, self.own_source))

    def forward(self, layer_input: Tensor, output: Tensor, left: Left) -> Tensor:
        if self.layer_idx == 0:
            left[0] = layer_input
        return self.scalars(output, left[0].to(output.device))


class AttachedDepthWeightedAverage(AttachedConnection):
    """DenseFormer's `sum_j a_j X_j` over the outputs so far, the embedding's included; at first the newest."""

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.average = DepthWeightedAverage(self.own_source + 1).at(self.own_source, range(self.own_source + 1))

    def forward(self, layer_input: Tensor, output: Tensor, left: Left) -> Tensor:
        if self.layer_idx == 0:
            left[0] = layer_input
        left[self.own_source] = output
        return self.average(*(left[j].to(output.device) for j in range(self.own_source + 1)))


class AttachedDepthAttention(AttachedConnection):
    """A connection whose sources are what layers add to the residual stream, weighed by a query's attention to them.

    A source is `v_{i+1} = X - h`, and v_0 the embedding. Their sum, kept as `X + (S_i - h)`, is the residual stream
    that there would be without connections, to the bit as long as they change nothing.
    """

    attention: DepthAttention  # returns what is added to their sum

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.attention = self.make_attention(spec.hidden_size).at(self.own_source, range(self.own_source + 1))
        self.attention.reads_deltas = True

    def make_attention(self, hidden_size: int) -> DepthAttention:
        """Make the attention to the sources."""
        raise NotImplementedError

    def forward(self, layer_input: Tensor, output: Tensor, left: Left) -> Tensor:
        if self.layer_idx == 0:
            left[0] = layer_input, layer_input
        before = left[self.layer_idx][1].to(output.device)
        stream = output + (before - layer_input)
        left[self.own_source] = output - layer_input, stream
        return stream + self.attention(*(left[j][0].to(output.device) for j in range(self.own_source + 1)))


class ScaledDepthAttention(DepthAttention):
    """The attention of a query to n sources, times n, without their sum: `sum_j (n alpha_j - 1) v_j`."""

    def forward(self, *sources: Tensor) -> Tensor:
        n, alpha = len(sources), self.weights(*sources)
        if self.change is not None:
            heads = [source.unsqueeze(-2) for source in sources]  # one
            return self.mixed(weighted_mix, heads, n * alpha).squeeze(-2) - sum(sources)
        return weighted_mix(sources, n * (alpha.squeeze(-2) - 1 / n))  # zero, to the bit, of a query that is zero


class AttachedAttentionResiduals(AttachedDepthAttention):
    """Attention Residuals, times the number n of sources: `n sum_j alpha_j v_j`, their sum while the query is zero."""

    def make_attention(self, hidden_size: int) -> DepthAttention:
        return ScaledDepthAttention(hidden_size, NORM_EPS)


class AttachedDeltaAttentionResiduals(AttachedDepthAttention):
    """Delta Attention Residuals: the residual stream and `c sum_j alpha_j v_j`; c starts at 0."""

    def make_attention(self, hidden_size: int) -> DepthAttention:
        return DeltaAttention(hidden_size, NORM_EPS, gated=True)


class AttachedManifoldConnection(AttachedConnection):
    """mHC: four streams that start as one; what the next layer reads, or the final norm, is a mix of them.

    Streams that are equal are read as one, up to 1e-6, as their coefficients add up to one: a float32 model computes
    what it did up to some 1e-6 for each layer. A stream `X'_k = post_k y + sum_j M[j, k] X_j` is written as what it is
    more than the output, `sum_j M[j, k] X_j - h + (post_k - 1) y`, so that nothing is lost where that is nothing.
    """

    weighs_sources = False

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        kind = ManifoldReadout if spec.is_last else ManifoldConnection
        self.connection = kind(spec.hidden_size, STREAMS, spec.layer_idx)

    def forward(self, layer_input: Tensor, output: Tensor, left: Left) -> Tensor:
        if self.layer_idx == 0:
            streams = output.unsqueeze(-2).expand(*output.shape[:-1], STREAMS, output.shape[-1])
        else:
            carried, post = (each.to(output.device) for each in left[self.layer_idx])
            y = (output - layer_input).unsqueeze(-2)
            beyond_output = (carried - layer_input.unsqueeze(-2)) + (post - 1).unsqueeze(-1) * y
            streams = (output.unsqueeze(-2) + beyond_output).to(carried.dtype)
        if isinstance(self.connection, ManifoldReadout):
            return self.connection(streams)
        mixed, *left[self.own_source] = self.connection(streams)
        return mixed
