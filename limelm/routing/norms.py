"""Norms of other people's models: the gain and the epsilon of an RMSNorm, and whether it is one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from limelm.routing.ops.rms_norm import rms_normalize

#: How norms call what they add to the mean square.
EPS_NAMES = ("variance_epsilon", "eps", "epsilon")


def parameters_of(norm: nn.Module) -> tuple[Tensor, float]:
    """The gain `[D]` and the epsilon of an RMSNorm.

    Raises:
        TypeError: for a module that has no such parameters.
    """
    weight, eps = getattr(norm, "weight", None), epsilon_of(norm)
    if not isinstance(weight, Tensor) or eps is None:
        raise _refusal(norm)
    return weight, eps


def epsilon_of(norm: nn.Module) -> float | None:
    """Find what a norm adds to the mean square: PyTorch's default where it says None; None for a module without it."""
    name = next((name for name in EPS_NAMES if hasattr(norm, name)), None)
    if name is None:
        return None
    eps, weight = getattr(norm, name), getattr(norm, "weight", None)
    dtype = torch.float32 if weight is None else torch.promote_types(weight.dtype, torch.float32)
    return torch.finfo(dtype).eps if eps is None else float(eps)


@torch.no_grad()
def computes(norm: nn.Module, formula: Callable[[Tensor], Tensor], X: Tensor, tolerance: float) -> bool:
    """Try whether a module gives what a formula gives.

    Args:
        tolerance: the share by which it may differ.
    """
    try:
        return torch.allclose(norm(X).to(X.dtype), formula(X), rtol=tolerance, atol=1e-3)
    except (AssertionError, AttributeError, RuntimeError, TypeError):
        return False


def check_rms_norm(norm: nn.Module, gain: Tensor, eps: float) -> None:
    """Try whether a module computes X / sqrt(mean(X^2) + eps) times its gain; on the meta device it is believed.

    Raises:
        TypeError: where it does not.
    """
    if gain.is_meta:
        return
    ramp = torch.linspace(-1, 2, len(gain), device=gain.device, dtype=gain.dtype)[None]
    for scale in (1.0, eps**0.5):  # the second shows another epsilon
        if not computes(norm, lambda X: rms_normalize(X, eps) * gain, scale * ramp, tolerance=0.03):
            raise _refusal(norm)


def _refusal(norm: nn.Module) -> TypeError:
    return TypeError(
        f"norm={type(norm).__name__}: representations are mixed after X / rms(X); give an RMSNorm, which is X / "
        "sqrt(mean(X^2) + eps) times its weight and nothing else, or use routing='kv', which takes any norm"
    )
