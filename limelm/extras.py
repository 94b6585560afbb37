"""Modules of the optional packages."""

import importlib
from typing import Any

from limelm.errors import UserError


def import_extra(module: str, extra: str) -> Any:
    """A module that comes with `pip install 'limelm[extra]'`.

    Raises:
        UserError: where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module.split('.')[0]} is not installed; install it with: pip install 'limelm[{extra}]'"
        ) from error
