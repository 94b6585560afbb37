"""What the suites have to know of LIMe and of the other models that mix keys and values."""

from tests.models.entries.entry import Entry, each_layer
from tests.models.naive import NaiveLime

GQA = {"num_key_value_heads": 2}


def shapes(config):
    D, G = config.hidden_size, config.num_key_value_heads
    found = {}
    for i, layer in each_layer(config)[1:]:
        if config.routing == "static":
            rows = (1 if config.routing_share_heads else G) * (1 if config.routing_share_kv else 2)
            found[f"{layer}.self_attn.router.weight"] = (rows, i + 1)
        elif config.routing == "dynamic":
            found[f"{layer}.self_attn.router.proj.weight"] = (G * (i + 1), D)
        elif config.routing == "kv":
            found[f"{layer}.self_attn.router.weight"] = (G, (i + 1) * G)
        elif config.routing == "value_residual":
            found[f"{layer}.self_attn.router.weight"] = (2,)
        if config.routing in ("static", "dynamic"):
            found[f"{layer}.routing_layernorm.weight"] = (D,)
    return found


SOURCES, NORMS = sum(range(2, 13)), 11 * 768  # over all layers
VARIANTS = {
    "none": {"routing": "none"},
    "none_gqa": {"routing": "none", **GQA},
    "static": {"routing": "static"},
    "static_gqa": {"routing": "static", **GQA},
    "static_bias": {"routing": "static", **GQA, "attention_bias": True, "mlp_bias": True},
    "static_top_p": {"routing": "static", "routing_top_p": 0.7},
    "static_top_p_gqa": {"routing": "static", "routing_top_p": 0.7, **GQA},
    "dynamic": {"routing": "dynamic"},
    "dynamic_gqa": {"routing": "dynamic", **GQA},
    "kv": {"routing": "kv"},
    "kv_gqa": {"routing": "kv", **GQA},
    "kv_identity": {"routing": "kv", "routing_init": "identity"},
    "static_apart_gqa": {
        "routing": "static",
        "routing_share_kv": False,
        "routing_share_heads": True,
        "routing_temperature": 0.5,
        **GQA,
    },
    "value_residual_gqa": {"routing": "value_residual", **GQA},
    "value_residual_identity": {"routing": "value_residual", "routing_init": "identity"},
    "depth_attention_gqa": {"routing": "depth_attention", **GQA},
}
ENTRY = Entry(
    variants=VARIANTS,
    naive=NaiveLime,
    options={
        "routing": "static",
        "routing_top_p": None,
        "routing_init": "paper",
        "routing_sources": None,
        "routing_backend": "auto",
        "routing_share_kv": True,
        "routing_share_heads": False,
        "routing_temperature": 1.0,
        "routing_trainable": True,
    },
    shapes=shapes,
    counts=[
        ({"routing": "none"}, 0),
        ({"routing": "static"}, 12 * SOURCES + NORMS),
        ({"routing": "dynamic"}, 12 * SOURCES * 768 + NORMS),
        ({"routing": "kv"}, 12 * 12 * SOURCES),
        ({"routing": "value_residual"}, 2 * 11),
        ({"routing": "depth_attention"}, 0),
    ],
    starts=dict.fromkeys(VARIANTS) | {"none": 0.0, "none_gqa": 0.0, "kv_identity": 0.0, "value_residual_identity": 0.0},
    decays=lambda name: "router.proj" in name,
    rate=10.0,
)
