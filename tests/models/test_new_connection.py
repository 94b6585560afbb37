"""The promise of CONTRIBUTING: another connection is one file, one line and one entry, and everything else knows it.

`new_connection` has the file and the entry. They are put into a copy of the package and of the tests, where all suites
that run through all variants have to run it by themselves, and a recipe, `limelm analyze` and `limelm bench` have to
know it.
"""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes import prepared, write_recipe

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "new_connection"
SUITES = ("models", "analysis/test_connections.py")
#: A test of each of these has to be among those that run.
MUST_RUN = [
    "test_it_starts_as_the_llama_whose_weights_it_has",
    "test_parameters_beside_llamas",
    "test_every_mixing_parameter_learns",
    "test_every_mixing_parameter_counts",
    "test_what_mixes_decays_only_where_its_paper_says_so",
    "test_what_is_kept_for_the_backward_grows_linearly_with_the_depth",
    "test_logits_and_all_gradients_equal_the_naive_version",
    "test_state_dict_names_and_shapes",
    "test_cached_logits_equal_the_full_forward",
    "test_left_padding_changes_nothing",
    "test_gradient_checkpointing_changes_nothing",
    "test_others_have_the_same_gradients",
    "test_every_number_has_a_range",
    "test_every_model_says_what_it_is",
    "test_the_weights_are_those_of_the_formulas",
]


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """A copy of the package and its tests with the connection: one file, one line, one entry."""
    copy = tmp_path_factory.mktemp("house")
    without = shutil.ignore_patterns("__pycache__")
    for name in ("limelm", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=without)
    shutil.copy(ROOT / "pyproject.toml", copy)
    shutil.copy(HERE / "mean_read.py", copy / "limelm" / "models")
    shutil.copy(HERE / "entry.py", copy / "tests" / "models" / "entries" / "mean_read.py")
    registry = copy / "limelm" / "registration.py"
    last = '    "deep_cross_attention": "DeepCrossAttention",\n'
    text = registry.read_text(encoding="utf-8")
    assert text.count(last) == 1
    registry.write_text(text.replace(last, f'{last}    "mean_read": "MeanRead",\n'), encoding="utf-8")
    return copy


def in_house(house: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=house, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_every_suite_of_models_runs_it(house):
    paths = [f"tests/{suite}" for suite in SUITES]
    passed = in_house(house, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-k", "mean_read or Mean", *paths)
    ran = [line.partition("::")[2] for line in passed.splitlines() if line.startswith("PASSED")]
    assert [name for name in MUST_RUN if not any(each.startswith(f"{name}[") for each in ran)] == []
    assert len(ran) > 60


def test_a_recipe_trains_it_and_commands_know_it(house, tmp_path):
    added = '[models.mean-read]\nlabel = "Mean read"\nmodel_type = "mean_read"\n\n[data]'
    recipe = write_recipe(tmp_path, ("[data]", added), ('["llama", "dynamic"]', '["llama", "mean-read"]'))
    data = prepared(tmp_path / "data")
    in_house(house, "-m", "limelm", "reproduce", str(recipe), "--data", str(data), "--out", str(tmp_path / "run"))
    folder = tmp_path / "run" / "seed-1" / "mean-read"
    assert "Mean read" in (tmp_path / "run" / "report.html").read_text()
    assert "times a learned number" in (folder / "README.md").read_text()

    few = ["--tokens", "64", "--only", "retrieval"]
    out = tmp_path / "analysis"
    in_house(house, "-m", "limelm", "analyze", str(folder), "--data", str(data), "--out", str(out), *few)
    with next(out.rglob("*weights*.csv")).open() as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"Mean read"}

    sizes = "--num-hidden-layers 3 --hidden-size 32 --num-attention-heads 4 --sequence-length 16 --batch-size 1"
    out = tmp_path / "bench"
    asked = ["--cases", "mean_read", "--workloads", "train", "--rounds", "1", "--out", str(out)]
    in_house(house, "-m", "limelm", "bench", *asked, *sizes.split(), "--vocab-size", "97")
    assert "mean_read" in "".join(path.read_text() for path in out.glob("*.csv"))
