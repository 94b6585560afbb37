"""The environment of a measurement or training: versions, device, available memory, and the processes together."""

import gc
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

from limelm._version import __version__

if TYPE_CHECKING:
    from accelerate import PartialState

# Dense peak of the matrix units in FLOP/s, from the makers' data sheets, by a part of the device's name.
PEAK_BF16_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "L40S": 362e12,
    "A100": 312e12,
    "A10G": 70e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(precision: str) -> float | None:
    """The CUDA device's peak FLOP/s in bfloat16; None if unknown."""
    if precision != "bf16" or not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for part, flops in PEAK_BF16_FLOPS.items() if part in name), None)


def this_process() -> "PartialState":
    """This process (`process_index`, `num_processes`, `is_main_process`), and a way to wait for the others.

    They are one per GPU, started by torchrun or accelerate, whose process group the first call joins; or one alone.
    """
    from accelerate import PartialState  # of the extra lab

    return PartialState(cpu=not torch.cuda.is_available())


def peak_flops_together(precision: str) -> float | None:
    """The peak FLOP/s of all processes' devices together, in a precision; None if unknown."""
    peak = peak_flops(precision)
    return peak * this_process().num_processes if peak else None


def environment() -> dict[str, str | int]:
    """Versions, device and threads, on which speed and memory depend."""
    return {
        "limelm": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
    }


def free_memory() -> None:
    """Give back what earlier models of this process have left, those in cycles of references and on a GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device.

    On CUDA that is its free memory; on a CPU it is what the system, the container and `ulimit -v` leave.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil  # of the extra lab; `environment()` needs it not

    address_space = _left_of_address_space(psutil.Process().memory_info().vms)
    bounds = [psutil.virtual_memory().available, _left_to_container(), address_space]
    return min(bound for bound in bounds if bound is not None)


def _left_to_container() -> int | None:
    """Bytes that the container's control group (version 2) leaves, page cache not counted; None without a limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        pairs = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = next((int(value) for name, value in pairs if name == "inactive_file"), 0)
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - int(used) + cached) if limit.isdecimal() else None


def _left_of_address_space(taken: int) -> int | None:
    """Bytes that `ulimit -v` leaves when so many are taken; None without a limit, and on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else max(0, limit - taken)
