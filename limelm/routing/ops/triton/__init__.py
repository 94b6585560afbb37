"""Routing's products in Triton: one pass over the sources where PyTorch makes several.

Importable only where triton is installed; `limelm.routing.ops.backends` looks first. `rows` mixes rows of a matrix,
`tokens` routes per token, `normalize` scales to unit RMS; `ahead_of_time` compiles all of them without a GPU.
"""

from limelm.routing.ops.triton.backend import TritonBackend
from limelm.routing.ops.triton.normalize import rms_normalize_backward, rms_normalize_forward

__all__ = ["TritonBackend", "rms_normalize_backward", "rms_normalize_forward"]
