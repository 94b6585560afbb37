"""Configuration of LIMe models."""

from typing import Annotated, Any, ClassVar

from limelm.models.configuration import DecoderConfig
from limelm.models.field_checks import strict_in_one_line
from limelm.records import Unrestricted
from limelm.routing.build import DEFAULTS, TEMPERATURE, TOP_P, check_options, sources_or_default


@strict_in_one_line
class LimeConfig(DecoderConfig):
    """Llama's fields and how the layers route (Gerasimov et al. 2025, arXiv 2502.09245).

    Args:
        routing: "none" (Llama), "static", "dynamic" (section 3), or "kv" (the paper's second version); or what others
            do with values over depth, "value_residual" (arXiv 2410.17897) or "depth_attention" (arXiv 2606.05014).
        routing_top_p: with "static", keep of each head's weights the largest up to this mass, in (0, 1] (section 5.4).
        routing_init: with "kv", "paper" (the layer's own block the identity, the rest uniform) or "identity" (the rest
            zero: the model starts as Llama, exactly); with "value_residual", "paper" (half of the first layer's values
            and half of the layer's own) or "identity" (its own alone: Llama again); with "static" and "dynamic",
            "paper" (logits near zero, nearly a mean) or "random" (logits of N(0, 1), for routes that are not learned).
        routing_sources: None (a layer reads all earlier representations), or {"first": m, "last": n}: the first m and
            the latest n, its own input among them, so that a router costs the same at every depth; or
            {"every": s, "last": n}: layers 0, s, 2 s, ... and the latest n. With "depth_attention" None becomes the
            paper's {"every": L / 2, "last": 1}; "value_residual" has none.
        routing_share_kv: with "static", "dynamic" and "kv", one set of weights for keys and values; False: one for
            each, the keys' heads first.
        routing_share_heads: with "static" and "dynamic", one distribution over the sources for all heads.
        routing_temperature: with "static" and "dynamic", what logits are divided by before their softmax.
        routing_trainable: False: what the routers have (not `routing_layernorm`) stays as it starts, random, at the
            mean or at the identity; these parameters need no gradient, also after loading.
        routing_backend: "auto", "reference", "chunked" or "triton": how the routing is computed (limelm.routing);
            read when a model is built.

    Raises:
        ValueError: for a value that is none of these, or an option that the routing does not have.
    """

    model_type = "lime"
    numbers: ClassVar[dict[str, Any]] = {
        "routing_top_p": Annotated[float, Unrestricted, TOP_P],  # which refuses NaN too, and says what is allowed
        "routing_temperature": Annotated[float, Unrestricted, TEMPERATURE],
    }

    routing: str = "static"
    routing_top_p: float | int | None = None
    routing_init: str = "paper"
    routing_sources: Any = None  # Any: what is allowed is said below, better than by a type
    routing_backend: Any = "auto"
    routing_share_kv: bool = True
    routing_share_heads: bool = False
    routing_temperature: float | int = 1.0
    routing_trainable: bool = True

    @property
    def kind(self) -> str:  # type: ignore[override]
        """The kind of model, in words; two of the routings are connections of other papers."""
        others = {"value_residual": "Value Residual", "depth_attention": "Depth-Attention"}
        return f"Language model with {others.get(self.routing, 'Layer-Integrated Memory (LIMe)')}"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_options(self.routing, {name: getattr(self, name) for name in DEFAULTS}, self.routing_backend)
        # Said here, and so in config.json: a model cut to fewer layers goes on reading what its layers were made for.
        self.routing_sources = sources_or_default(self.routing, self.routing_sources, self.num_hidden_layers)
