"""The norm before attention, split into X / rms(X), shared by all readers, and each reader's own gain."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from limelm.errors import UserError
from limelm.models.offload import device_of, own_weights
from limelm.routing import rms_normalize
from limelm.routing.norms import computes, epsilon_of

NORMS = ("input_layernorm", "ln_1")
# Attention reads X itself. It is not guessed for other families: their norm may have another name.
WITHOUT_NORM = ("olmo2", "olmo3")


@dataclass(frozen=True)
class InputNorm:
    """`norm(X) = gain * normalize(X) + bias`, where normalize(X) needs no parameters of the layer.

    Attributes:
        module: RMSNorm or LayerNorm; None where attention reads X itself (OLMo 2).
    """

    module: nn.Module | None

    @property
    def eps(self) -> float | None:
        """The small number that is added to the variance; None where there is none."""
        return None if self.module is None else epsilon_of(self.module)

    def center(self, X: Tensor) -> Tensor:
        """Take the mean off where the norm does, as a LayerNorm."""
        return X - X.mean(-1, keepdim=True) if isinstance(self.module, nn.LayerNorm) else X

    def normalize(self, X: Tensor) -> Tensor:
        """Normalize without gain: X / rms(X) or, for a LayerNorm, (X - mean(X)) / deviation(X)."""
        if self.module is None:
            return X
        assert self.eps is not None
        return rms_normalize(self.center(X), self.eps)

    def gain_and_bias(self) -> tuple[Tensor | None, Tensor | None]:
        """The layer's own, `[D]` each; None for one that it does not have."""
        if self.module is None:
            return None, None
        weight, bias = own_weights(self.module, "weight", "bias")
        assert weight is not None
        return 1 + weight if type(self.module).__name__.startswith("Gemma") else weight, bias

    def scale(self, mixed: Tensor) -> Tensor:
        """Apply the layer's own gain and bias to a mix of normalized representations whose weights sum to one."""
        return MixedInput(mixed, self).scaled()


class MixedInput:
    """The input of a layer's projections: a mix of normalized representations `[..., D]`, and the layer's own norm.

    Attributes:
        mixed: before the norm's gain and bias.
        gain, bias: those of the norm, `[D]`; None for one that it does not have.
    """

    def __init__(self, mixed: Tensor, norm: InputNorm):
        self.mixed = mixed
        self.gain, self.bias = norm.gain_and_bias()
        self._scaled: Tensor | None = None

    def scaled(self) -> Tensor:
        """The whole of it; made once."""
        if self._scaled is None:
            scaled = self.mixed if self.gain is None else self.mixed * self.gain.to(self.mixed.dtype)
            self._scaled = scaled if self.bias is None else scaled + self.bias.to(scaled.dtype)
        return self._scaled


def input_norm(layer: nn.Module) -> InputNorm:
    """Find the norm before a layer's attention."""
    return InputNorm(next((getattr(layer, name) for name in NORMS if hasattr(layer, name)), None))


def check_input_norm(layer: nn.Module, config: PreTrainedConfig) -> None:
    """Test whether a layer's norm is one that `InputNorm` splits correctly.

    Args:
        config: of the decoder.

    Raises:
        UserError: where it is not, or where there seems to be none.
    """
    norm = input_norm(layer)
    module = norm.module
    if module is None:
        if config.model_type in WITHOUT_NORM:
            return
        raise UserError(
            f"{type(layer).__name__}: no norm before attention found; looked for {', '.join(NORMS)}; routing='kv' does "
            "not need it"
        )
    if not getattr(layer, "norms_its_input", True):
        raise UserError(
            f"{type(layer).__name__}: the norm before attention is given something else than the layer, so "
            "representations cannot be mixed; routing='kv' does not need it"
        )
    (weight,) = own_weights(module, "weight")
    if weight is not None and weight.is_meta:
        return  # no values to try it with
    device, dtype = (device_of(layer), torch.float32) if weight is None else (weight.device, weight.dtype)
    X = torch.linspace(-1, 2, config.hidden_size, device=device, dtype=dtype)[None]
    if not computes(module, lambda X: norm.scale(norm.normalize(X)), X, tolerance=0.05):
        raise UserError(
            f"{type(module).__name__}: not an RMSNorm or LayerNorm as they are known here, so representations cannot "
            "be mixed; routing='kv' does not need to know it"
        )
