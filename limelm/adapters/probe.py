"""Find out whether a decoder passes keywords on to its attention, by running it that far on one token."""

from typing import Any, NoReturn

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from limelm.models.offload import device_of

KEYWORD = "routing_probe"


class _ReachedAttention(BaseException):
    """Raised to end the probe's run; it is no `Exception`, so that no error handler in the model catches it."""

    def __init__(self, is_handed_on: bool):
        super().__init__()
        self.is_handed_on = is_handed_on


def hands_keywords_on(decoder: nn.Module, attention: nn.Module) -> bool:
    """Whether a keyword that the decoder is given arrives at its first layer's attention.

    Args:
        decoder: nothing of it changes. One that is sharded, or cannot be run on one token, counts as one that does.
    """
    if any(isinstance(parameter, DTensor) for parameter in decoder.parameters()):
        return True  # a run that ends early would leave its weights gathered
    handles = (
        decoder.register_forward_pre_hook(_give, with_kwargs=True),
        attention.register_forward_pre_hook(_arrive, with_kwargs=True, prepend=True),
    )
    device = device_of(decoder)
    tokens = torch.zeros(1, 1, dtype=torch.long, device=device)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
            decoder(input_ids=tokens)
    except _ReachedAttention as reached:
        return reached.is_handed_on
    except Exception as error:  # a decoder that wants more than tokens
        return KEYWORD not in str(error)
    finally:
        for handle in handles:
            handle.remove()
    return True


def _give(decoder: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return arguments, {**keywords, KEYWORD: True}


def _arrive(attention: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> NoReturn:
    raise _ReachedAttention(KEYWORD in keywords)
