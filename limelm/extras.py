"""Import modules of optional packages, or say which extra to install."""

import importlib
from importlib import metadata
from typing import Any

from limelm.errors import UserError

#: What an extra brings for a whole command or package (as in pyproject.toml), looked for before that begins.
REQUIREMENTS = {
    "lab": ("accelerate>=1.10", "jinja2>=3.1", "matplotlib>=3.9", "psutil>=5.9", "tomli-w>=1.1"),
    "explore": ("starlette>=1.0", "uvicorn>=0.35"),
    "peers": ("x-transformers>=2.31", "hyper-connections>=0.4.11"),
}
#: Packages whose name is not their module's.
PACKAGES = {
    "sklearn": "scikit-learn",
    "lm_eval": "lm-eval",
    "tomli_w": "tomli-w",
    "x_transformers": "x-transformers",
    "hyper_connections": "hyper-connections",
}


class MissingExtra(UserError, ImportError):
    """A package of an extra is not installed, or cannot be imported; the line says how to install it."""


def require_extra(extra: str, name: str) -> None:
    """Look for all that an extra brings, without importing it.

    Args:
        extra: one of REQUIREMENTS.
        name: the command or package that needs it.

    Raises:
        MissingExtra: where some of it is not installed, or is too old, with both ways to install it.
    """
    missing = missing_requirements(extra)
    if missing:
        raise MissingExtra(f"{name}: {not_installed(missing, extra)}")


def missing_requirements(extra: str) -> list[str]:
    """List the packages of an extra (one of REQUIREMENTS) that are not installed, or too old."""
    return [requirement for requirement in REQUIREMENTS[extra] if not _is_installed(requirement)]


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
        raise MissingExtra(not_installed([PACKAGES.get(top, top)], extra)) from error


def _is_installed(requirement: str) -> bool:
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    try:
        return wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def not_installed(packages: list[str], extra: str) -> str:
    """Say in one line that packages are missing, with both ways to install the extra that brings them."""
    verb, them = ("is", "it") if len(packages) == 1 else ("are", "them")
    return (
        f"{', '.join(packages)} {verb} not installed; install {them} with: pip install 'limelm[{extra}]' "
        f"(in a clone of limelm: pip install -e '.[{extra}]')"
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
