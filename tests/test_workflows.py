"""The workflows test every Python that the package says it runs on, and publish what they have tried."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
WORKFLOWS: dict[str, dict[Any, Any]] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}
CLASSIFIERS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
PYTHONS = [name.rpartition(" ")[2] for name in CLASSIFIERS if re.search(r":: Python :: 3\.\d+$", name)]


def steps(workflow: str) -> list[dict[str, Any]]:
    return [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize(("workflow", "job"), [("tests", "test"), ("publish", "try")])
def test_every_python_of_the_classifiers_is_tested(workflow, job):
    assert WORKFLOWS[workflow]["jobs"][job]["strategy"]["matrix"]["python-version"] == PYTHONS


def test_the_checks_are_those_of_every_change():
    run = [step["run"] for step in steps("tests") if "run" in step]
    assert {"make lint", "make test"} <= set(run) and "make --jobs=2 lint test" in (ROOT / ".ci" / "run").read_text()


def test_a_tag_publishes_what_was_built_and_tried_without_a_password():
    jobs, publish = WORKFLOWS["publish"]["jobs"], WORKFLOWS["publish"]["jobs"]["publish"]
    assert WORKFLOWS["publish"][True] == {"push": {"tags": ["v*"]}}  # YAML reads the key "on" as true
    assert jobs["try"]["needs"] == "build" and publish["needs"] == "try"
    assert publish["environment"] == "pypi" and publish["permissions"] == {"id-token": "write"}
    assert all("id-token" not in str(jobs[name].get("permissions")) for name in ("build", "try"))
    assert "secrets" not in str(WORKFLOWS["publish"])
    assert publish["steps"][-1] == {"uses": "pypa/gh-action-pypi-publish@release/v1"}


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_actions_are_pinned_by_major_version(workflow):
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", name) for name in used)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_files_and_modules_that_are_run_are_there(workflow):
    for step in steps(workflow):
        for path in re.findall(r"tests/[\w/]+\.py", step.get("run", "")):
            assert (ROOT / path).exists(), path
        for module in re.findall(r"python -m (dev\.\w+)", step.get("run", "")):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
