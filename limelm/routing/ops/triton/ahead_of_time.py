"""Compile every kernel at realistic shapes without a GPU, and tell what each takes of a multiprocessor.

`python -m limelm.routing.ops.triton.ahead_of_time` prints the table. Kernels are planned for tensors without memory, by
the same functions that plan them for a GPU.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from limelm.records import Record, Records
from limelm.routing.ops.triton.launch import Launch
from limelm.routing.ops.triton.normalize import plan_normalize, plan_normalize_backward
from limelm.routing.ops.triton.rows import RowPlaces, plan_mix, plan_mix_backward
from limelm.routing.ops.triton.tokens import plan_route, plan_softmax_backward

POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
}
TOKENS = 256  # of a chunk


class Shape(NamedTuple):
    """Heads G, sources n and hidden size D of a layer."""

    heads: int
    sources: int
    hidden_size: int


SHAPES = (Shape(8, 16, 2048), Shape(32, 16, 2048), Shape(8, 128, 256), Shape(32, 128, 256))


def compile_all(
    target: str = "sm_90", dtype: torch.dtype = torch.bfloat16, shapes: Sequence[Shape] = SHAPES
) -> Records:
    """Compile every kernel at every shape.

    Args:
        target: an NVIDIA architecture.
        dtype: of the sources.
        shapes: of layers.

    Returns:
        For each: `kernel`, `shape` (G, n, D and the tokens of a chunk), `registers` per thread, `spills` (bytes per
        thread), `shared_bytes` per program, `narrowest_store` (bytes that one instruction writes; 16 is the most) and
        `warps` per program.

    Raises:
        RuntimeError: where kernels are interpreted (TRITON_INTERPRET=1), or one does not compile.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET=1 is set: kernels are interpreted and cannot be compiled; unset it")
    capability = int(target.removeprefix("sm_"))
    return [
        {"kernel": name, "shape": (*shape, TOKENS), **_compile(launch, capability)}
        for shape in shapes
        for name, launch in launches(shape, dtype)
    ]


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch]]:
    """Every kernel as a layer of this shape launches it, with its name."""
    heads, n, D = shape

    def empty(*sizes: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(*sizes, dtype=dtype, device="meta")

    for name, M, K, tokens in (("static", heads, n, 1), ("kv", heads, n * heads, 1), ("tokens", heads, n, TOKENS)):
        weights, S, Z = empty(tokens, M, K), empty(K, TOKENS * D), empty(M, TOKENS * D)
        yield f"mix ({name})", plan_mix(weights, S, Z, tokens)
        places = RowPlaces(S, S.stride(0), K // 2, S.stride(0))
        yield f"mix_backward ({name})", plan_mix_backward(weights, S, Z, places, True, tokens)[0]
    A, X, inverse_rms = empty(TOKENS, heads, n), empty(TOKENS, D), empty(TOKENS, 1, dtype=torch.float32)
    yield "route", plan_route(empty(heads * n, D), X, A)
    partial = empty(TOKENS, 2, heads, n, dtype=torch.promote_types(dtype, torch.float32))
    yield "softmax_backward", plan_softmax_backward(A, partial, A.view(TOKENS, -1))
    yield "rms_normalize_forward", plan_normalize(X, X, inverse_rms, 1e-6)
    yield "rms_normalize_backward", plan_normalize_backward(X, X, inverse_rms, X)


def _compile(launch: Launch, capability: int) -> Record:
    """Compile one kernel and report on it, as `compile_all` does of all."""
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    compiled = triton.compile(_source(launch), target=GPUTarget("cuda", capability, 32), options=options)
    registers, spills = _registers_and_spills(compiled.asm["cubin"])
    shared_bytes = compiled.metadata.shared
    return {
        "registers": registers,
        "spills": spills,
        "shared_bytes": shared_bytes,
        "narrowest_store": _narrowest_store(compiled.asm["ptx"]),
        "warps": launch.warps,
    }


def _source(launch: Launch) -> ASTSource:
    """The kernel with its arguments' types, and what a launch would find out of their values: 1, divisible by 16."""
    signature, constants, attributes = {}, dict(launch.constants), {}
    for position, (name, value) in enumerate(launch.arguments.items()):
        if isinstance(value, int) and value == 1:
            constants[name] = 1
            continue
        signature[name] = _type_of(value)
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(constants, "constexpr")
    ordered = {name: signature[name] for name in launch.kernel.arg_names}
    return ASTSource(fn=launch.kernel, signature=ordered, constexprs=constants, attrs=attributes)


def _type_of(value: Tensor | float) -> str:
    if isinstance(value, Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _registers_and_spills(binary: bytes) -> tuple[int, int]:
    """Registers per thread, and bytes per thread that found no register, as cuobjdump reads them from a kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(binary)
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", path]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(number) for number in re.findall(r"\b(?:REG|STACK|LOCAL):(\d+)", usage))
    return registers, stack + local


def _narrowest_store(ptx: str) -> int:
    """Bytes of the narrowest store to global memory."""
    stores = re.findall(r"\bst\.global(?:\.v(\d))?\.b(\d+)", ptx)
    return min(int(count or 1) * int(bits) // 8 for count, bits in stores)


def main() -> None:
    """Print the table."""
    print(f"{'kernel':24} {'G, n, D, tokens':22} registers  spills  shared  store  warps")
    for row in compile_all():
        shape = ", ".join(map(str, row["shape"]))
        columns = ("registers", 9), ("spills", 6), ("shared_bytes", 6), ("narrowest_store", 5), ("warps", 5)
        print(f"{row['kernel']:24} {shape:22}", "  ".join(f"{row[name]:{width}}" for name, width in columns))


if __name__ == "__main__":
    main()
