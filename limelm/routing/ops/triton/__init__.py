"""Routing's products in Triton: one pass over the sources where PyTorch makes several.

Importable only where triton is installed; `limelm.routing.ops.backends` looks first. `rows` mixes rows of a matrix,
`tokens` routes per token, `normalize` scales to unit RMS; `ahead_of_time` compiles all of them without a GPU.
"""

from limelm.routing.ops.triton.normalize import scale_to_unit, scale_to_unit_backward
from limelm.routing.ops.triton.products import TritonProducts

__all__ = ["TritonProducts", "scale_to_unit", "scale_to_unit_backward"]
