"""What this project exists for: the routers and the mix over depth."""

from limelm.routing.mixing import mix_heads, mix_representations
from limelm.routing.projection import HeadwiseLinear
from limelm.routing.routers import ROUTERS, DynamicRouter, KeyValueRouter, Router, RouterSpec, StaticRouter
from limelm.routing.top_p import prune, top_p_mask

__all__ = [
    "ROUTERS",
    "DynamicRouter",
    "HeadwiseLinear",
    "KeyValueRouter",
    "Router",
    "RouterSpec",
    "StaticRouter",
    "mix_heads",
    "mix_representations",
    "prune",
    "top_p_mask",
]
