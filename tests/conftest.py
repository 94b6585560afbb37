import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network; a wrong path must fail at once
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU; 0 runs their tests on a GPU
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads only cost time, in commands too

from collections import Counter
from pathlib import Path

import pytest
import torch

# Pages are checked where all is that they point at; a source distribution has no results.
PAGES = ["test_docs.py", "test_paper.py", "test_readme.py", "test_site.py", "test_spelling.py", "test_tables.py"]
collect_ignore = [] if (Path(__file__).parents[1] / "results").is_dir() else PAGES

# These have few tests, and take minutes all the same.
LONG = ["test_site.py", "test_new_connection.py"]


def pytest_collection_modifyitems(items):
    """Begin with what takes longest: the files in `LONG`, then those with the most tests.

    Among several processes each takes a file at a time, and none is left alone with a long one at the end.
    """
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in LONG, -tests[item.path]))


@pytest.fixture(autouse=True, scope="module")
def _settled():
    """Collecting garbage does not look at what was there before this file: libraries, and thousands of tests.

    Each training and each compilation collects; looking through all of it is most of what a small one takes.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # or nanobind reports what is left as leaks


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    """A model's class may be compiled a few times per process only; the next test would be refused."""
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def figures_stay_undrawn():
    """Lay out and write no figure, which takes most of a page's time, where a test is about words and numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limelm.report.writer.save_figure", lambda figure, path: b"<svg/>")
        yield
