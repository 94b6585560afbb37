"""Serving engines: the plugin by which they know the models, and guards against dividing a model (docs/serving.md).

vLLM and SGLang call `register` when they start. All else here refuses a model that has been divided over devices by its
heads or by its layers: a layer makes the keys and values of all heads at once, from what all earlier layers left.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import transformers
from torch import nn

from limelm.registration import CLASSES


def register() -> None:
    """Let a server find the models; it may be called in every process, and more than once.

    Importing limelm has registered the model types with the Auto classes, which make the config and the model. But to
    learn whether a model can be served, servers look its class up as an attribute of `transformers`, and only then,
    with `trust_remote_code`, in the checkpoint's own code.
    """
    from limelm import models  # here, as they import this file

    # An attribute of the module's class: transformers makes its module twice, and a server may hold either.
    for _, *classes in CLASSES.values():
        for name in classes:
            setattr(type(transformers), name, getattr(models, name))


def refuse_divided_heads(
    attention: Any, attention_instances: Mapping[int, object] | None = None, **options: Any
) -> None:
    """Refuse to run an attention whose engine has a share of its heads: vLLM divides models without a plan too.

    Args:
        attention: the module, with its `config` and `layer_idx`.
        attention_instances: by layer, as vLLM passes them; later versions leave theirs at the module, as `attn`.
        options: whatever else the attention function is given.

    Raises:
        ValueError: under tensor parallelism.
    """
    layer = attention.layer_idx
    if attention_instances:
        served_by = attention_instances.get(layer)
    else:  # not by getattr: a module takes long to say that it has no such attribute
        served_by = attention.__dict__.get("attn") or attention.__dict__.get("_modules", {}).get("attn")
    if served_by is None:
        return
    all_heads = attention.config.num_attention_heads
    heads = getattr(served_by, "num_heads", all_heads)
    if heads != all_heads:
        raise ValueError(
            f"tensor parallelism is not supported: the engine's attention of layer {layer} has {heads} of the model's "
            f"{all_heads} heads; serve it with a tensor-parallel size of 1"
        )


def refuse_missing_layers(layers: Iterable[nn.Module]) -> None:
    """Refuse to run a decoder some of whose layers are on another device, where vLLM, SGLang and HF leave identities.

    Raises:
        ValueError: under pipeline parallelism.
    """
    if any(isinstance(layer, nn.Identity) for layer in layers):
        raise ValueError(
            "pipeline parallelism is not supported: later layers read what all earlier ones left behind; "
            "serve the model with a pipeline-parallel size of 1"
        )


def refuse_model_parallelism(model: type, distributed_config: Any) -> None:
    """Refuse HF's `distributed_config`, an object or a dictionary, where it asks for more than FSDP.

    Raises:
        ValueError: for tensor or pipeline parallelism.
    """
    asked = getattr(distributed_config, "__dict__", distributed_config) or {}
    for name, how in (("tp_plan", "tensor"), ("tp_size", "tensor"), ("pp_size", "pipeline")):
        if asked.get(name) not in (None, 1):
            raise ValueError(
                f"{name}={asked[name]!r}: {how} parallelism is not supported by {model.__name__}; "
                "load the model whole on each device, or shard it with FSDP"
            )
