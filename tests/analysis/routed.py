"""Models of every kind that weighs what earlier places left, for what looks into their routes."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from limelm import attach
from tests.models.variants import TINY, VARIANTS, randomize, tiny_model

NATIVE = [name for name in VARIANTS if not name.startswith(("none", "hc_", "mhc_", "static_bias"))]
ATTACHED = ("kv", "static", "dynamic", "value-residual", "residual-scalars", "dense", "attnres", "delta-attnres")
APART = ("kv", "static", "dynamic")  # these may have routers of their own for keys and for values
ROUTED = [*NATIVE, *(f"attached {kind}" for kind in ATTACHED), *(f"apart {kind}" for kind in APART)]


def routed_model(variant: str) -> PreTrainedModel:
    """A model in evaluation mode, whose parameters are all random."""
    if variant in NATIVE:
        return tiny_model(variant)
    where, kind = variant.split()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY | {"num_key_value_heads": 2}))
    attach(model, kind, share_kv=where == "attached")
    for name, parameter in randomize(model).named_parameters():
        if name.endswith("router.gate"):  # some of both ways
            parameter.data.uniform_(0.2, 0.8)
    return model.eval()
