"""The entry point that vLLM and SGLang call when they start (docs/serving.md)."""

import transformers

from limelm.models import HyperConnectionForCausalLM, HyperConnectionModel, LimeForCausalLM, LimeModel


def register() -> None:
    """Let a server find the models; it may be called in every process, and more than once.

    Importing limelm has registered the model types with the Auto classes, which make the config and the model. But to
    learn whether a model can be served, servers look its class up as an attribute of `transformers`, and only then,
    with `trust_remote_code`, in the checkpoint's own code.
    """
    # An attribute of the module's class: transformers makes its module twice, and a server may hold either.
    for model in (LimeForCausalLM, LimeModel, HyperConnectionForCausalLM, HyperConnectionModel):
        setattr(type(transformers), model.__name__, model)
