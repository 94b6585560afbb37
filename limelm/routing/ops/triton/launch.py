"""The launch of a kernel, and the sizes of blocks."""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

# Without a GPU: the interpreter gets few programs, but more than one; compiling for another machine means an H100.
MULTIPROCESSORS = {"cpu": 2, "meta": 132}
DOT_SIDE = 16  # the shortest side of a matrix that the matrix units take


@dataclass(frozen=True)
class Launch:
    """A kernel with all it needs to run; made of tensors on the device `meta`, all it needs to be compiled.

    Attributes:
        kernel: a function under `triton.jit`.
        programs: how many programs run.
        arguments: the kernel's tensors and numbers by name, in its order.
        constants: its compile-time constants by name.
        warps: of 32 threads, per program.
        stages: how many iterations of a loop have their reads in flight.
    """

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3

    def run(self) -> None:
        """Start the kernel on the device of its first tensor."""
        first = next(iter(self.arguments.values()))
        with torch.cuda.device_of(first) if first.is_cuda else contextlib.nullcontext():
            self.kernel[(self.programs,)](
                *self.arguments.values(), **self.constants, num_warps=self.warps, num_stages=self.stages
            )


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many programs the device runs side by side, one to a multiprocessor."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return MULTIPROCESSORS[device.type]


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The dtype that sums of products of `dtype` are kept in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def cdiv(a: int, b: int) -> int:
    """`a / b`, rounded up."""
    return -(-a // b)


def covering(size: int, least: int = 1, most: int | None = None) -> int:
    """The smallest power of two that covers `size`, kept between `least` and `most` (powers of two)."""
    power = max(least, 1 << max(0, size - 1).bit_length())
    return power if most is None else min(power, most)


def along_rows(matrix: Tensor) -> Tensor:
    """The matrix itself where its rows are contiguous in memory, else a copy."""
    return matrix if matrix.stride(-1) == 1 else matrix.contiguous()
