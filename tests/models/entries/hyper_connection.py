"""What the suites have to know of Hyper-Connections and manifold-constrained ones."""

from tests.models.entries.entry import Entry, each_layer
from tests.models.naive import NaiveHyperConnection
from tests.models.naive_mhc import NaiveManifold


def naive(config, weights):
    return (NaiveManifold if config.connection == "mhc" else NaiveHyperConnection)(config, weights)


def shapes(config):
    n, D = config.expansion_rate, config.hidden_size
    connections = [f"{layer}.{name}_connection" for _, layer in each_layer(config) for name in ("attn", "mlp")]
    found = {}
    if config.connection == "mhc":
        for connection in connections:
            found |= {f"{connection}.weight": (n * n + 2 * n, n * D), f"{connection}.bias": (n * n + 2 * n,)}
            found |= {f"{connection}.{name}_scale": (1,) for name in ("read", "write", "mix")}
        readout = {"weight": (n, n * D), "bias": (n,), "scale": (1,)}
        return found | {f"model.output_connection.{name}": shape for name, shape in readout.items()}
    for _, layer in each_layer(config):
        found |= {f"{layer}.{norm}.weight": None for norm in ("input_layernorm", "post_attention_layernorm")}
    for connection in connections:
        found |= {f"{connection}.static_alpha": (n, n + 1), f"{connection}.static_beta": (n,)}
        if config.dynamic:
            found |= {f"{connection}.dynamic_alpha": (D, n + 1), f"{connection}.dynamic_beta": (D,)}
            found |= {f"{connection}.alpha_scale": (1,), f"{connection}.beta_scale": (1,)}
    return found


NORMS = 2 * 12 * 768  # which hc does not have
ENTRY = Entry(
    variants={
        "hc_dynamic": {"dynamic": True},
        "hc_dynamic_gqa": {"dynamic": True, "num_key_value_heads": 2},
        "hc_static": {"dynamic": False, "expansion_rate": 3},
        "mhc_gqa": {"connection": "mhc", "num_key_value_heads": 2},
    },
    naive=naive,
    options={"expansion_rate": 4, "dynamic": True, "connection": "hc"},
    shapes=shapes,
    counts=[
        ({}, 2 * 12 * (768 * 6 + 4 * 6 + 2) - NORMS),
        ({"dynamic": False}, 2 * 12 * 4 * 6 - NORMS),
        ({"connection": "mhc"}, 1_782_413),
    ],
    # The norms of hc have no gains and take the mean off.
    starts={"hc_dynamic": None, "hc_dynamic_gqa": None, "hc_static": None, "mhc_gqa": 1e-5},
    idle=lambda name: name == "model.layers.0.attn_connection.mix_scale",  # the first streams of mhc are equal
    decays=lambda name: "dynamic_" in name,
)
