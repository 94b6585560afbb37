"""Arithmetic of the kernels."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def add_product(total, a, b):
    """`total + a b` in `total`'s type; float32 in three products of tf32, about as exact and on matrix units."""
    if INTERPRETED:  # the interpreter's product takes bfloat16 for integers
        a = a.to(total.dtype)
        b = b.to(total.dtype)
    return tl.dot(a, b, total, input_precision="tf32x3", out_dtype=total.dtype)
