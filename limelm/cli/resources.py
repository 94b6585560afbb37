"""The folder that a command writes to and the device that it runs on, checked."""

import os
import re
from pathlib import Path

from limelm.errors import UserError
from limelm.files import partial_of


def check_out(out: Path, marker: str | None = None) -> None:
    """Refuse a folder that cannot take the results, before any work; nothing is created.

    Args:
        marker: a file that tells that the folder holds results of this command, which may be replaced; so does what a
            kill has left of it.

    Raises:
        UserError: for a folder that holds something else, is a file, or is not writable.
    """
    try:
        names = [path.name for path in out.iterdir()] if out.exists() else []
    except NotADirectoryError:
        raise UserError(f"--out: {out} is not a folder") from None
    held = sorted(names, key=lambda name: (name.startswith("."), name))  # the first is named: one that people see
    if held and (marker is None or not {marker, partial_of(Path(marker)).name} & set(held)):
        raise UserError(f"--out: {out} already holds other files ({held[0]}); name a new folder")
    parent = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise UserError(f"--out: {out} is not a folder")
    if not os.access(parent, os.W_OK):
        raise UserError(f"--out: {out} is not writable")


def find_device(name: str | None):
    """The `torch.device` that `--device` names, by default CUDA where there is one.

    Raises:
        UserError: for another name, or a device that cannot be used.
    """
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device: {name!r} is not cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device: {name} cannot be used ({str(error).splitlines()[0]})") from None
    return device
