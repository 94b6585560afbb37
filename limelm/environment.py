"""Where a measurement was made."""

import platform

import torch
import transformers

from limelm._version import __version__

# Dense peak of the matrix units in FLOP/s, from the makers' data sheets, by a part of the device's name.
PEAK_BF16_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
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
    """The CUDA device's peak FLOP/s in "bf16"; None where it is not known."""
    if precision != "bf16" or not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for part, flops in PEAK_BF16_FLOPS.items() if part in name), None)


def environment() -> dict[str, str | int]:
    """Versions, device and threads: what speed and memory depend on."""
    return {
        "limelm": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
    }
