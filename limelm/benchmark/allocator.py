"""Memory that a step on a CPU frees: kept for the next one, so that fetching pages is no part of what is timed."""

import contextlib
import ctypes
import platform
from collections.abc import Iterator

#: Parameters of glibc's `mallopt`: while memory is kept, and afterwards, where it has itself arrived by then.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
USUAL = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20}


def can_keep_memory() -> bool:
    """Whether the C library is glibc, which can be told so."""
    return platform.libc_ver()[0] == "glibc"


@contextlib.contextmanager
def freed_memory_is_kept() -> Iterator[None]:
    """Have the C library keep freed memory; it else gives it back, and each step fetches new, empty pages again."""
    if not can_keep_memory():
        yield
        return
    library = ctypes.CDLL(None)
    for parameter, value in KEPT.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
