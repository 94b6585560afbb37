"""The analyses on a GPU give what they give on a CPU."""

import pytest
import torch

from limelm.analysis import Settings, analyze
from tests.analysis.models_on_text import write_study

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NUMBERS = {
    "entropy": "entropy",
    "effective_rank": "effective_rank",
    "cosine": "neighbors",
    "cka": "cka",
    "logit_lens": "kl",
    "gradients": "gradient_norm",
    "separability": "accuracy",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("analysis"))


@pytest.mark.parametrize("name", ["dynamic", "kv", "hc", "llama-like"])
def test_same_as_on_the_cpu(folder, name):
    settings = Settings(tokens=640, sequence_length=16, occurrences=12)
    results = []
    for device in ("cpu", "cuda"):
        *_, analysis = analyze([str(folder / name)], [folder / "tokens"], settings, torch.device(device))
        results.append(analysis.records)
    on_cpu, on_gpu = results
    assert on_cpu.keys() == on_gpu.keys()
    for record, key in NUMBERS.items():
        expected = [row[key] for row in on_cpu[record]]
        assert [row[key] for row in on_gpu[record]] == pytest.approx(expected, rel=2e-2, abs=2e-2), record
