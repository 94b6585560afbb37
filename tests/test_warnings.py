"""What our own code calls and is deprecated ends a test: a later release would end a user's program."""

import warnings

import pytest


def call_from(module: str, category: type[Warning]) -> None:
    """A function of another library warns, and says that the line which called it is in `module`."""

    def deprecated():
        warnings.warn("this argument is deprecated", category, stacklevel=2)

    namespace = {"__name__": module, "deprecated": deprecated}
    exec(compile("def caller():\n    deprecated()\n", f"{module.replace('.', '/')}.py", "exec"), namespace)
    namespace["caller"]()


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning])
def test_a_deprecation_in_our_code_is_an_error(category):
    with pytest.raises(category, match="deprecated"):
        call_from("limelm.models.decoder", category)


def test_a_deprecation_elsewhere_is_not():
    call_from("somebody.elses", DeprecationWarning)
