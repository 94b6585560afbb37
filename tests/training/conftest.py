"""What tests of several files do with a run that their file has trained once."""

import shutil

import pytest


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run that a test may change."""
    recipe, folder, _ = run
    shutil.copytree(folder / "run", tmp_path / "copy")
    return recipe, tmp_path / "copy", folder / "tokens"
