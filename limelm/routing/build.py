"""The kinds of routers by name, those of a whole model from plain sizes, and the check of what they are made with."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from limelm.records import Check
from limelm.routing.layer_router import LayerRouter
from limelm.routing.module import DepthModule
from limelm.routing.ops.backends import BACKENDS
from limelm.routing.router import RouterSpec
from limelm.routing.routers import DynamicRouter, KeyValueRouter, PlainRouter, StaticRouter
from limelm.routing.sources import ReadPlan, check_sources
from limelm.routing.value_routers import DepthAttentionRouter, ValueResidualRouter

#: The routers of this package's models, by the name that `LimeConfig.routing` has for them.
ROUTERS: dict[str, type[LayerRouter]] = {
    "none": PlainRouter,
    "static": StaticRouter,
    "dynamic": DynamicRouter,
    "kv": KeyValueRouter,
    "value_residual": ValueResidualRouter,
    "depth_attention": DepthAttentionRouter,
}

TOP_P = Check(lambda value: 0 < value <= 1, "in (0, 1]")  # what `routing_top_p` may be
#: What the temperature of a softmax may be: a smaller one takes logits beyond the largest float.
TEMPERATURE = Check(lambda value: 1e-6 <= value < math.inf, "finite and at least 1e-06")
ROUTING_INITS = ("paper", "identity", "random")
#: What the options of routings are where nothing is asked for.
DEFAULTS: dict[str, Any] = {
    "routing_sources": None,
    "routing_top_p": None,
    "routing_init": "paper",
    "routing_share_kv": True,
    "routing_share_heads": False,
    "routing_temperature": 1.0,
    "routing_trainable": True,
}


def check_options(routing: str, options: dict[str, Any], backend: str) -> None:
    """Check how the layers of a model are to route.

    Args:
        options: by name as in DEFAULTS.

    Raises:
        ValueError: for a value that is not allowed, or an option that the routing does not have.
    """
    if routing not in ROUTERS:
        raise ValueError(f"routing={routing!r} is unknown; allowed: {', '.join(ROUTERS)}")
    if options["routing_init"] not in ROUTING_INITS:
        raise ValueError(f"routing_init={options['routing_init']!r} is unknown; allowed: {', '.join(ROUTING_INITS)}")
    for name, value in options.items():
        if value != DEFAULTS[name] and not _understands(ROUTERS[routing], name, value):
            having = " or ".join(repr(kind) for kind, router in ROUTERS.items() if _understands(router, name, value))
            raise ValueError(f"{name}={value!r} needs routing={having}, not {routing!r}")
        if isinstance(DEFAULTS[name], bool) and not isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be True or False")
    top_p, temperature = options["routing_top_p"], options["routing_temperature"]
    if top_p is not None and not TOP_P.holds(top_p):
        raise ValueError(f"routing_top_p={top_p!r} must be {TOP_P.says}")
    if not TEMPERATURE.holds(temperature):
        raise ValueError(f"routing_temperature={temperature!r} must be {TEMPERATURE.says}")
    check_sources(options["routing_sources"])
    if backend not in BACKENDS:
        raise ValueError(f"routing_backend={backend!r} is unknown; allowed: {', '.join(BACKENDS)}")


def _understands(router: type[LayerRouter], option: str, value: Any) -> bool:
    return value in router.inits if option == "routing_init" else option in router.options


def sources_or_default(routing: str, sources: dict[str, int] | None, num_layers: int) -> dict[str, int] | None:
    """The bounds that are asked for, or else those of the routing in a model of L layers; None is all sources."""
    return ROUTERS[routing].default_sources(num_layers) if sources is None else sources


class RouterList(nn.ModuleList):
    """The routers of a model's layers, the first layer's first.

    Attributes:
        plan: which of them reads what.
    """

    def __init__(self, routers: Sequence[LayerRouter] = ()):
        super().__init__(routers)
        self.plan = ReadPlan(routers)


def make_routers(
    routing: str,
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    head_dim: int | None = None,
    sources: dict[str, int] | None = None,
    top_p: float | None = None,
    init: str = "paper",
    backend: str = "auto",
    share_kv: bool = True,
    share_heads: bool = False,
    temperature: float = 1.0,
    trainable: bool = True,
) -> RouterList:
    """Initialized routers for the layers of a model of one's own.

    Args:
        routing: "none", "static", "dynamic", "kv", "value_residual" or "depth_attention"; see `ROUTERS`.
        num_layers: L.
        hidden_size: D.
        num_heads: G, key/value heads.
        head_dim: d; None is D / G.
        sources: None (a layer reads all earlier ones; of depth_attention every L / 2), `{"first": m, "last": n}`, or
            `{"every": s, "last": n}`.
        top_p: of static routing, the mass of each head's weights that is kept, in (0, 1]; None keeps all.
        init: "paper"; or, of kv and value_residual, "identity": the model starts as one without routing; or, of static
            and dynamic, "random": logits start from N(0, 1).
        backend: "auto", "reference", "chunked" or "triton"; see `limelm.routing.ops.backends`.
        share_kv: of static, dynamic and kv, one set of weights for keys and values; else one for each.
        share_heads: of static and dynamic, one distribution over the sources for all heads.
        temperature: of static and dynamic, what the logits of these distributions are divided by.
        trainable: whether the routing weights are trained; else they stay as they start.

    Raises:
        ValueError: for a value that is none of these, or an option that the routing does not have.
    """
    options: dict[str, Any] = {
        "sources": sources,
        "top_p": top_p,
        "init": init,
        "share_kv": share_kv,
        "share_heads": share_heads,
        "temperature": temperature,
        "trainable": trainable,
    }
    check_options(routing, {f"routing_{name}": value for name, value in options.items()}, backend)
    sizes = {"num_layers": num_layers, "hidden_size": hidden_size, "num_heads": num_heads, "head_dim": head_dim}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
    if head_dim is None and hidden_size % num_heads:
        raise ValueError(f"hidden_size={hidden_size} is not a multiple of num_heads={num_heads}; give head_dim")
    options["sources"] = sources_or_default(routing, sources, num_layers)
    specs = (RouterSpec(i, hidden_size, num_heads, head_dim, backend=backend, **options) for i in range(num_layers))
    routers = RouterList([ROUTERS[routing](spec) for spec in specs])
    for module in routers.modules():
        if isinstance(module, DepthModule):
            module.init_weights()
    return routers
