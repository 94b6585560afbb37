import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network; a wrong path must fail at once
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU; 0 runs their tests on a GPU

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The models are tiny: more threads only cost time."""
    torch.set_num_threads(1)


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
