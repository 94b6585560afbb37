"""What this project exists for: the routers and the mix over depth."""

from limelm.routing.history import History, ReadPlan
from limelm.routing.linear import ROUTER, HeadwiseLinear, RoutingLinear, as_arguments, parameter_of, whole
from limelm.routing.ops.autograd import route_heads, route_representations
from limelm.routing.ops.backends import BACKENDS, resolve_backend
from limelm.routing.ops.rms_norm import normalize
from limelm.routing.reference import mix_heads, mix_representations
from limelm.routing.routers import ROUTERS, DynamicRouter, KeyValueRouter, Router, RouterSpec, StaticRouter
from limelm.routing.sources import check_routing_sources, sources_of_layer
from limelm.routing.top_p import prune, top_p_mask

__all__ = [
    "BACKENDS",
    "ROUTER",
    "ROUTERS",
    "DynamicRouter",
    "HeadwiseLinear",
    "History",
    "KeyValueRouter",
    "ReadPlan",
    "Router",
    "RouterSpec",
    "RoutingLinear",
    "StaticRouter",
    "as_arguments",
    "check_routing_sources",
    "mix_heads",
    "mix_representations",
    "normalize",
    "parameter_of",
    "prune",
    "resolve_backend",
    "route_heads",
    "route_representations",
    "sources_of_layer",
    "top_p_mask",
    "whole",
]
