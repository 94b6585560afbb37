"""Which parameters of a model with routers are trained."""

from transformers import PreTrainedModel

from limelm.adapters.attachment import required_attachment
from limelm.adapters.parameters import lora_parameters, plain_model, router_parameters
from limelm.errors import UserError
from limelm.models.families import find_attention_layers

TRAINABLE = ("routers", "kv", "lora", "all")


def set_trainable(model: PreTrainedModel, trains: str = "routers") -> int:
    """Let gradients reach some of a model's parameters and freeze the others.

    Args:
        model: with attached routers.
        trains: "routers" alone; "kv", routers and the projections that make keys and values (where these are fused with
            the queries', all of them); "lora", routers and what PEFT has put in (`model.add_adapter`); or "all".

    Returns:
        How many numbers are trained.

    Raises:
        UserError: for a model without routers, or without LoRA where that is to be trained; or an unknown choice.
    """
    if trains not in TRAINABLE:
        raise UserError(f"trains={trains!r} is unknown; allowed: {', '.join(TRAINABLE)}")
    required_attachment(model)
    trained = list(router_parameters(model).values())
    if trains == "kv":
        for layer in find_attention_layers(plain_model(model)):
            for projection in layer.projections:
                trained += getattr(layer.module, projection.name).parameters()
    elif trains == "lora":
        lora = lora_parameters(model)
        if not lora:
            raise UserError(f"{type(model).__name__}: has no LoRA; put one in with model.add_adapter(LoraConfig(...))")
        trained += lora
    elif trains == "all":
        trained = list(model.parameters())
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
