"""Where a measurement was made."""

import platform

import torch
import transformers

from limelm._version import __version__


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
