"""Routing over depth: what this project exists for, for Hugging Face models and for models of your own.

In a model of your own, four lines give its attention heads the representations of all earlier layers:

    self.routers = make_routers("kv", num_layers=12, hidden_size=768, num_heads=12)   # once: a ModuleList

    history = History(self.routers)                                                   # in each forward of the model
    for router, block in zip(self.routers, self.blocks, strict=True):
        x = block(x, router, history)

    k, v = router.keys_values(history, x, self.norm, self.k_proj, self.v_proj)        # in each block: [B, T, G, d]

where `k_proj(norm(x))` and `v_proj(norm(x))` stood before; position embeddings come afterwards. `"static"` and
`"dynamic"` mix normalized representations before they are projected, so their norm is an RMSNorm; `"kv"` mixes keys and
values, and takes any norm, as do `"value_residual"` and `"depth_attention"`, which mix values alone.
`examples/nanolime.py` is a whole model. `depth_mix` is the mix alone, on a list of tensors; `HyperConnection` and
`ManifoldConnection` are other connections, of several residual streams.

To read on: `reader.py` (what all that weighs sources says of itself), `router.py` (and every router), `layer_router.py`
(how a layer calls it), `routers.py` (LIMe's kinds), `value_routers.py` (those of other papers), `history.py`,
`sources.py`, `reference.py` (the formulas), `top_p.py`, `linear.py`, `build.py`, `hyper_connection.py`,
`manifold_connection.py`; `ops/` below makes it fast.
"""

from limelm.routing.build import ROUTERS, RouterList, check_options, make_routers
from limelm.routing.history import History
from limelm.routing.hyper_connection import HyperConnection
from limelm.routing.layer_router import LayerRouter
from limelm.routing.linear import HeadwiseLinear, RoutingLinear, as_arguments, parameter_of, whole
from limelm.routing.manifold_connection import ManifoldConnection, ManifoldReadout
from limelm.routing.module import CONNECTIONS, DepthModule, Rule
from limelm.routing.ops.backends import BACKENDS, formulas, resolve_backend, runs_by_formulas
from limelm.routing.ops.rms_norm import rms_normalize
from limelm.routing.reader import SUBLAYERS, DepthReader, readers_in
from limelm.routing.reference import depth_mix, mix_heads, mix_heads_by_token, weighted_mix, weighted_sum
from limelm.routing.router import ROUTER, WEIGHT_SETS, Router, RouterSpec, routers_in
from limelm.routing.routers import (
    DynamicRouter,
    KeyValueRouter,
    PlainRouter,
    RepresentationRouter,
    StaticRouter,
)
from limelm.routing.sources import ReadPlan, check_sources
from limelm.routing.top_p import prune, top_p_mask
from limelm.routing.value_routers import DepthAttentionRouter, ValueResidualRouter

__all__ = [
    "BACKENDS",
    "CONNECTIONS",
    "ROUTER",
    "ROUTERS",
    "SUBLAYERS",
    "WEIGHT_SETS",
    "DepthAttentionRouter",
    "DepthModule",
    "DepthReader",
    "DynamicRouter",
    "HeadwiseLinear",
    "History",
    "HyperConnection",
    "KeyValueRouter",
    "LayerRouter",
    "ManifoldConnection",
    "ManifoldReadout",
    "PlainRouter",
    "ReadPlan",
    "RepresentationRouter",
    "Router",
    "RouterList",
    "RouterSpec",
    "RoutingLinear",
    "Rule",
    "StaticRouter",
    "ValueResidualRouter",
    "as_arguments",
    "check_options",
    "check_sources",
    "depth_mix",
    "formulas",
    "make_routers",
    "mix_heads",
    "mix_heads_by_token",
    "parameter_of",
    "prune",
    "readers_in",
    "resolve_backend",
    "rms_normalize",
    "routers_in",
    "runs_by_formulas",
    "top_p_mask",
    "weighted_mix",
    "weighted_sum",
    "whole",
]
