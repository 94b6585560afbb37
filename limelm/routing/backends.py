"""Which implementation of routing runs: chosen by `routing_backend`, refused with the reason where it cannot run.

- `reference`: the formulas in plain PyTorch, differentiable any number of times. Memory grows with G x D per token.
- `chunked`: linear memory, any device (`limelm.routing.chunked`).
- `triton`: as chunked, the products inside a chunk in Triton kernels (`limelm.routing.kernels`); CUDA.
- `auto`: chunked.
"""

import functools
import importlib.util
import logging
import os

import torch

from limelm.errors import UserError
from limelm.routing.chunked import Products

BACKENDS = ("auto", "reference", "chunked", "triton")
logger = logging.getLogger(__name__)


def resolve_backend(name: str, device: torch.device) -> str:
    """The implementation that `routing_backend=name` means on `device`.

    Raises:
        ValueError: for an unknown name.
        UserError: where that backend cannot run, with the reason.
    """
    if name not in BACKENDS:
        raise ValueError(f"routing_backend={name!r} is unknown; allowed: {', '.join(BACKENDS)}")
    if name == "triton":
        reason = why_not_triton(device.type)
        if reason:
            raise UserError(f"routing_backend='triton' cannot run: {reason}")
    resolved = "chunked" if name == "auto" else name
    if not torch.compiler.is_compiling():
        _announce(name, resolved, device.type)
    return resolved


@functools.cache
def why_not_triton(device_type: str) -> str | None:
    """Why the Triton kernels cannot run on such a device; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {device_type}, not cuda (TRITON_INTERPRET=1 interprets the kernels, slowly)"
    return None


def products_of(backend: str) -> Products:
    """The products inside a chunk."""
    if backend == "triton":
        from limelm.routing.kernels import TritonProducts

        return TritonProducts()
    return Products()


@functools.cache
def _announce(name: str, resolved: str, device_type: str) -> None:
    logger.info("routing_backend=%s on %s: %s", name, device_type, resolved)
