"""Import modules of optional packages, or say which extra to install."""

import importlib
import importlib.util
from typing import Any

from limelm.errors import UserError

#: Modules that an extra brings for a whole command or package, so that these look for all of them before they begin.
MODULES = {"lab": ("accelerate", "jinja2", "matplotlib", "psutil")}
#: Packages whose name is not their module's.
PACKAGES = {"sklearn": "scikit-learn", "lm_eval": "lm-eval"}


class MissingExtra(UserError, ImportError):
    """A package of an extra is not installed, or cannot be imported; the line says how to install it."""


def require_extra(extra: str, name: str) -> None:
    """Look for all that an extra brings, without importing it.

    Args:
        extra: one of MODULES.
        name: the command or package that needs it.

    Raises:
        MissingExtra: where some of it is not installed, with both ways to install it.
    """
    missing = [module for module in MODULES[extra] if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtra(f"{name}: {_not_installed(missing, extra)}")


def import_extra(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: its dotted name.
        extra: the extra of limelm that brings it.

    Raises:
        MissingExtra: where it is not installed, with both ways to install it, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != top:
            package = PACKAGES.get(top, top)
            raise MissingExtra(f"{package} cannot be imported ({error}); install what it needs") from error
        raise MissingExtra(_not_installed([top], extra)) from error


def _not_installed(modules: list[str], extra: str) -> str:
    packages = ", ".join(PACKAGES.get(module, module) for module in modules)
    verb, them = ("is", "it") if len(modules) == 1 else ("are", "them")
    return (
        f"{packages} {verb} not installed; install {them} with: pip install 'limelm[{extra}]' (in a clone of limelm: "
        f"pip install -e '.[{extra}]')"
    )


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
