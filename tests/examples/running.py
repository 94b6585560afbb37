"""Run a file of `examples/` with other values in its cell of parameters."""

import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "examples"
PARAMETERS = '# %% tags=["parameters"]\n'


def cells(path: Path) -> list[str]:
    """The cells of a file in the percent format, each with its `# %%` line; the first is what stands before any."""
    return re.split(r"^(?=# %%)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def with_parameters(path: Path, values: dict[str, Any]) -> str:
    """The text of a file whose parameters have other values.

    Raises:
        KeyError: for a name that is not assigned in the cell of parameters.
    """
    found = cells(path)
    (place,) = (number for number, cell in enumerate(found) if cell.startswith(PARAMETERS))
    for name, value in values.items():
        assignment = re.compile(rf"^{re.escape(name)} = .*$", re.MULTILINE)
        if not assignment.search(found[place]):
            raise KeyError(f"{path.name}: {name} is none of its parameters")
        found[place] = assignment.sub(lambda _, text=f"{name} = {value!r}": text, found[place])
    return "".join(found)


def run_example(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Run a file from top to bottom in the working folder, and return all names that it leaves behind."""
    path = FOLDER / f"{name}.py"
    names: dict[str, Any] = {"__name__": name}
    exec(compile(with_parameters(path, values), str(path), "exec"), names)
    return names
