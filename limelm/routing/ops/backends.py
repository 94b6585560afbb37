"""Which implementation of routing runs: chosen by `routing_backend`, refused with the reason where it cannot run.

- `reference`: the formulas in plain PyTorch, differentiable any number of times. Memory grows with G x D per token.
- `chunked`: linear memory, any device (`limelm.routing.ops.chunked`).
- `triton`: as chunked, the products inside a chunk in Triton kernels (`limelm.routing.ops.triton`); CUDA.
- `auto`: chunked; under the transforms of `torch.func` and forward-mode AD reference.

An export to ONNX and `torch.jit.trace` always record the reference.
"""

import functools
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

from limelm.errors import UserError
from limelm.routing.ops.chunked import ComputeBackend
from limelm.routing.ops.rms_norm import is_transformed

BACKENDS = ("auto", "reference", "chunked", "triton")
NOT_TRANSFORMED = (
    "torch.func and forward-mode AD cannot follow it; build the model with routing_backend='reference' or 'auto'"
)
logger = logging.getLogger(__name__)
_by_formulas = ContextVar("by_formulas", default=False)


@contextmanager
def formulas() -> Iterator[None]:
    """Run all routing by its formulas, eagerly, whatever its backend: where a `DepthReader` has a change to be made."""
    token = _by_formulas.set(True)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        _by_formulas.reset(token)


def runs_by_formulas() -> bool:
    """Tell whether routing runs by its formulas alone, within `formulas`; a compiler is told no."""
    return not torch.compiler.is_compiling() and _by_formulas.get()


def resolve_backend(name: str, device: torch.device, has_fast_path: bool = True) -> str:
    """The implementation that `routing_backend=name` means on `device`.

    Args:
        has_fast_path: whether the routing has others than the reference.

    Raises:
        ValueError: for an unknown name.
        UserError: where that backend cannot run, with the reason.
    """
    if name not in BACKENDS:
        raise ValueError(f"routing_backend={name!r} is unknown; allowed: {', '.join(BACKENDS)}")
    is_compiling = torch.compiler.is_compiling()
    if _is_exporting() if is_compiling else torch.jit.is_tracing():
        return "reference"  # what is recorded runs without this library, which knows the other backends' operators
    if runs_by_formulas():
        return "reference"
    reason = NOT_TRANSFORMED if not is_compiling and is_transformed() else None
    if not has_fast_path:
        reason = "this routing has formulas only; take 'reference' or 'auto'"
    resolved = name
    if name == "auto":
        resolved = "reference" if reason else "chunked"
    elif name == "triton":
        reason = why_not_triton(device.type) or reason
    if reason and resolved != "reference":
        raise UserError(f"routing_backend={name!r} cannot run: {reason}")
    if not is_compiling:
        _announce(name, resolved, device.type)
    return resolved


def _is_exporting() -> bool:
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()


@functools.cache
def why_not_triton(device_type: str) -> str | None:
    """Why the Triton kernels cannot run on such a device; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'limelm[triton]')"
    if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {device_type}, not cuda (TRITON_INTERPRET=1 interprets the kernels, slowly)"
    return None


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of matrix products under autocast on `device`; None where it is off or, as on meta, unknown."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Compute in the dtypes that are given, on `tensor`'s device."""
    if autocast_dtype(tensor.device) is None:
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def compute_backend(backend: str) -> ComputeBackend:
    """The products inside a chunk."""
    if backend == "triton":
        from limelm.routing.ops.triton import TritonBackend

        return TritonBackend()
    return ComputeBackend()


@functools.cache
def _announce(name: str, resolved: str, device_type: str) -> None:
    logger.info("routing_backend=%s on %s: %s", name, device_type, resolved)
