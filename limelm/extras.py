"""Import modules of optional packages, or say which extra to install."""

import importlib
from typing import Any

from limelm.errors import UserError

#: Packages whose name is not their module's.
PACKAGES = {"sklearn": "scikit-learn", "lm_eval": "lm-eval"}


def import_extra(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: its dotted name.
        extra: the extra of limelm that brings it.

    Raises:
        UserError: where it is not installed, with both ways to install it, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        package = PACKAGES.get(top, top)
        if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != top:
            raise UserError(f"{package} cannot be imported ({error}); install what it needs") from error
        raise UserError(
            f"{package} is not installed; install it with: pip install 'limelm[{extra}]' (in a clone of limelm: pip "
            f"install -e '.[{extra}]')"
        ) from error


def import_peft() -> Any:
    """Import PEFT, in a version that the installed transformers works with.

    Raises:
        UserError: where it is not installed, or too old.
    """
    peft = import_extra("peft", "lora")
    from packaging.version import Version
    from transformers import __version__ as transformers_version
    from transformers.integrations.peft import MIN_PEFT_VERSION

    if Version(peft.__version__) < Version(MIN_PEFT_VERSION):
        raise UserError(
            f"peft {peft.__version__} is too old for transformers {transformers_version}, which asks for "
            f"{MIN_PEFT_VERSION} or later; install that, or an earlier transformers"
        )
    return peft
