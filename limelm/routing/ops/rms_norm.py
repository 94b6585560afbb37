"""RMS normalization without its gain: X / rms(X).

A representation is normalized once, when it appears; the layers that read it bring gains of their own. The backward
needs only the result and one number per token, so the input itself is not kept alive.
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether a transform of `torch.func` or forward-mode AD is at work, which sees plain operations only."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def rms_normalize(x: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """X / rms(X) over the last dimension, computed in float32, in `x`'s dtype: on a CPU HF's RMSNorm to the bit.

    Args:
        out: a place for it, where it needs no gradients.
    """
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling() and not is_transformed():
        return _RMSNormalize.apply(x, eps)[0]
    if x.is_cuda and x.dtype != torch.float64:  # one kernel there; elsewhere PyTorch's is these operations, and slower
        normalized = torch.rms_norm(x, x.shape[-1:], eps=eps)
        return normalized if out is None else out.copy_(normalized)
    return rms_normalize_forward(x, eps, out)[0]


def rms_normalize_forward(x: Tensor, eps: float, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """X / rms(X) `[..., D]` in `x`'s dtype (or in `out`, and in its dtype), and 1 / rms(X) `[..., 1]` in float32."""
    wide = x.float()
    inverse_rms = wide.pow(2).mean(-1, keepdim=True).add_(eps).rsqrt_()
    if out is None:
        return (wide * inverse_rms).to(x.dtype), inverse_rms
    return torch.mul(wide, inverse_rms, out=out), inverse_rms


def rms_normalize_backward(grad: Tensor, normalized: Tensor, inverse_rms: Tensor) -> Tensor:
    """Gradient of X from that of X / rms(X): `r (g - u mean(g u))`, with u = X / rms(X) and r = 1 / rms(X)."""
    wide, normalized = grad.to(inverse_rms.dtype), normalized.to(inverse_rms.dtype)
    along = (wide * normalized).mean(-1, keepdim=True)
    return (torch.addcmul(wide, normalized, along, value=-1) * inverse_rms).to(grad.dtype)


class _RMSNormalize(torch.autograd.Function):
    """Returns 1 / rms(X) too, so that gradients of gradients see how it depends on X."""

    @staticmethod
    def forward(ctx, x, eps):
        normalized, inverse_rms = rms_normalize_forward(x, eps)
        ctx.save_for_backward(normalized, inverse_rms)
        ctx.set_materialize_grads(False)
        return normalized, inverse_rms

    @staticmethod
    def backward(ctx, grad, grad_inverse_rms):
        normalized, inverse_rms = ctx.saved_tensors
        total = None
        if grad is not None:
            total = rms_normalize_backward(grad, normalized, inverse_rms)
        if grad_inverse_rms is not None:  # d(1 / rms) / dX = -r^2 u / D
            through_rms = -grad_inverse_rms * inverse_rms**2 / normalized.shape[-1] * normalized.to(inverse_rms.dtype)
            total = through_rms.to(normalized.dtype) if total is None else total + through_rms.to(normalized.dtype)
        return total, None
