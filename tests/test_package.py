"""What people install works without the clone: contents, commands, and types as mypy sees them."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("build")


from dev.package import LINK, SMALL_DEMO, build, link_to
from limelm import __version__
from tests.models.variants import tiny_model, token_ids

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only what git tracks is built")


def tracked(*patterns: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(filter(None, listed.stdout.split("\0")))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The wheel and the source distribution by their endings."""
    return {path.suffix: path for path in build(ROOT, tmp_path_factory.mktemp("dist"))}


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    return zipfile.ZipFile(built[".whl"])


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    return Parser().parsestr(wheel.read(f"limelm-{__version__}.dist-info/METADATA").decode())


# What is in it


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    held = set(wheel.namelist())
    info = f"limelm-{__version__}.dist-info"
    assert {name for name in held if not name.startswith(info)} == tracked("limelm")
    assert {"limelm/py.typed", "limelm/recipes/tiny.toml", "limelm/report/templates/report.html"} <= held
    assert {"limelm/explorer/static/page.html", f"{info}/licenses/LICENSE"} <= held


def test_the_source_distribution_holds_what_tests_and_pages_need_but_no_results(built):
    with tarfile.open(built[".gz"]) as file:
        names = {name.partition("/")[2] for name in file.getnames() if not file.getmember(name).isdir()}
    generated = {name for name in names if name in ("PKG-INFO", "setup.cfg") or name.startswith("limelm.egg-info/")}
    assert names - generated == {name for name in tracked() if not name.startswith(("results/", "studies/"))}
    assert {"LICENSE", "CITATION.cff", "docs/models.md", "examples/nanolime.py", "tests/conftest.py"} <= names
    assert built[".gz"].stat().st_size < 3e6


def test_the_metadata_is_that_of_the_project(metadata):
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"]) == (
        "limelm",
        __version__,
        "Apache-2.0",
    )
    assert metadata["Requires-Python"] == PROJECT["requires-python"] == ">=3.11"
    assert metadata["Keywords"].split(",") == PROJECT["keywords"]
    assert metadata.get_all("Classifier") == PROJECT["classifiers"]
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL") or [])
    assert urls == PROJECT["urls"] and urls["Paper"] == "https://arxiv.org/abs/2502.09245"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_extras_are_those_of_the_project(metadata):
    assert set(metadata.get_all("Provides-Extra") or []) == PROJECT["optional-dependencies"].keys()
    found: dict[str, set[str]] = {}
    for each in map(Requirement, metadata.get_all("Requires-Dist") or []):
        extra = re.search(r'extra == "([a-z]+)"', str(each.marker))
        found.setdefault(extra[1] if extra else "", set()).add(requirement(each))
    wanted = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    assert found == {extra: {requirement(Requirement(text)) for text in texts} for extra, texts in wanted.items()}


def requirement(each: Requirement) -> str:
    return f"{canonicalize_name(each.name)}[{','.join(sorted(each.extras))}]{each.specifier}"


def test_the_entry_points_are_those_of_the_project(wheel):
    text = wheel.read(f"limelm-{__version__}.dist-info/entry_points.txt").decode()
    groups = {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}
    lines = {f"[{group}]": [f"{name} = {place}" for name, place in points.items()] for group, points in groups.items()}
    parts = [part.splitlines() for part in text.strip().split("\n\n")]
    assert {first: rest for first, *rest in parts} == lines


def test_classifiers_name_every_python_from_the_oldest_on():
    named = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert named == ["3.11", "3.12", "3.13", "3.14"]
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert not [name for name in PROJECT["classifiers"] if name.startswith("License ::")]  # the expression says it


def test_links_of_the_index_page_lead_to_the_files_of_the_release():
    text = "![curves](docs/a.png) [page](docs/a.md#part) [paper](https://arxiv.org) [below](#more)"
    assert link_to("https://host.example/limelm/", text, "1.0") == (
        "![curves](https://host.example/limelm/raw/v1.0/docs/a.png) "
        "[page](https://host.example/limelm/blob/v1.0/docs/a.md#part) [paper](https://arxiv.org) [below](#more)"
    )
    targets = [match[3] for match in LINK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert len(targets) > 8 and all((ROOT / target.partition("#")[0]).exists() for target in targets)


# What it does


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """A virtual environment with the wheel, and this environment's packages behind it, without its limelm."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, built[".whl"]], check=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    (own / "packages.pth").write_text(sysconfig.get_path("purelib"))  # its .pth files, such as a clone's, are not read
    return place


def call(installed: Path, folder: Path, *command: object, fails: bool = False) -> str:
    """What a program of the environment prints, started in a folder that is not the clone."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    program, *arguments = map(str, command)
    finished = subprocess.run(
        [installed / "bin" / program, *arguments],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    assert (finished.returncode != 0) == fails, finished.stdout + finished.stderr
    return finished.stdout


def test_the_wheel_is_what_runs(installed, tmp_path):
    code = "import limelm, importlib.metadata as m; print(limelm.__file__, m.distribution('limelm').locate_file(''))"
    for path in call(installed, tmp_path, "python", "-c", code).split():
        assert Path(path).is_relative_to(installed)
    assert call(installed, tmp_path, "limelm", "--version") == f"limelm {__version__}\n"


def test_the_recipes_are_there(installed, tmp_path):
    printed = call(installed, tmp_path, "limelm", "recipes")
    assert all(name in printed for name in ("tiny", "paper-1.2b", "attach"))


def test_the_demo_trains_and_reports_without_a_clone_and_reproduce_goes_on_with_it(installed, tmp_path):
    printed = call(installed, tmp_path, "limelm", *SMALL_DEMO)
    assert "LIMe dynamic" in printed and printed.endswith("Report: demo/report.html\n")
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert '<img alt="Loss against FLOPs' in page and "limelm demo --models llama,dynamic" in page
    assert {path.name for path in (tmp_path / "demo/seed-42").iterdir()} == {"llama", "dynamic"}
    again = call(installed, tmp_path, "limelm", "reproduce", "tiny", "--out", *SMALL_DEMO)
    assert "demo: complete, nothing to train." in again


REMOTE = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("lime", trust_remote_code=True)
torch.save(model(torch.load("ids.pt")).logits, "logits.pt")
print(sys.modules[type(model).__module__].__file__)
"""


def test_a_checkpoint_is_loaded_with_trust_remote_code(installed, tmp_path):
    import torch

    model, ids = tiny_model("static"), token_ids()
    model.save_pretrained(tmp_path / "lime")
    torch.save(ids, tmp_path / "ids.pt")
    printed = call(installed, tmp_path, "python", "-c", REMOTE)
    assert Path(printed.splitlines()[-1]).is_relative_to(installed)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(ids).logits)


# Its types, as a user's mypy sees them


USER = """\
import limelm

reveal_type(limelm.attach)
reveal_type(limelm.LimeConfig())
reveal_type(limelm.LimeConfig().routing)
reveal_type(limelm.LimeForCausalLM)
reveal_type(limelm.parameter_groups)
reveal_type(limelm.routes)
reveal_type(limelm.load_model)
limelm.LimeConfig(routing=3)
limelm.LimeConfig(hidden_size="wide")
limelm.attach("my-model", routing="kv")
limelm.parameter_groups(limelm.load_model("x"), learning_rate="fast")
"""
#: Of transformers what says what models and configurations are: the whole of it and PyTorch take half a minute.
SETTINGS = """\
[mypy]
[mypy-torch.*,numpy.*,huggingface_hub.*,transformers.*,tokenizers.*,safetensors.*]
follow_imports = skip
[mypy-transformers,transformers.configuration_utils,transformers.modeling_utils,transformers.models]
follow_imports = normal
[mypy-transformers.models.llama,transformers.models.llama.configuration_llama]
follow_imports = normal
"""
MODEL = "transformers.modeling_utils.PreTrainedModel"
TYPES = {
    3: f"def (model: {MODEL}, routing: str =, share_kv: bool =, routing_sources: dict[str, int] | None =) -> {MODEL}",
    4: "limelm.models.lime.configuration_lime.LimeConfig",
    5: "str",
    6: "def (config: transformers.models.llama.configuration_llama.LlamaConfig) "
    "-> limelm.models.lime.modeling_lime.LimeForCausalLM",
    7: "def (model: Any, learning_rate: float =, router_learning_rate: float =, weight_decay: float =, "
    "decay: typing.Mapping[str, bool] | None =) -> list[dict[str, Any]]",
    8: f"def (model: {MODEL}) -> limelm.analysis.interventions.Routes",
    9: f"def (checkpoint: str | pathlib.Path) -> {MODEL}",
}
ERRORS = {
    10: 'Argument "routing" to "LimeConfig" has incompatible type "int"; expected "str"',
    11: 'Argument "hidden_size" to "LimeConfig" has incompatible type "str"; expected "int"',
    12: 'Argument 1 to "attach" has incompatible type "str"; expected "PreTrainedModel"',
    13: 'Argument "learning_rate" to "parameter_groups" has incompatible type "str"; expected "float"',
}


def test_mypy_sees_the_types_of_an_installed_limelm_and_reports_wrong_arguments(installed, tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    said = call(installed, tmp_path, "python", "-m", "mypy", "user.py", fails=True)
    found = {int(line): words for line, words in re.findall(r"^user\.py:(\d+): (?:note|error): (.*)$", said, re.M)}
    assert {line: found.pop(line, "") for line in TYPES} == {
        line: f'Revealed type is "{revealed}"' for line, revealed in TYPES.items()
    }
    assert {line: found.pop(line, "").partition("  [")[0] for line in ERRORS} == ERRORS
    assert not found
