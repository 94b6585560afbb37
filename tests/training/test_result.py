"""What `result.json` may say."""

import json
from dataclasses import asdict

import pytest

from limelm.errors import UserError
from limelm.training.result import RESULT, TrainingResult, read_result

GOOD = TrainingResult(
    name="llama",
    label="LLaMA",
    model_type="llama",
    parameters=10,
    flops_per_token_forward=20.0,
    paper_flops_per_token_forward=20.0,
    train_tokens=64,
    final_train_loss=1.5,
    eval_loss=1.5,
    eval_perplexity=4.5,
    seconds=2.0,
    tokens_per_second=32.0,
    mfu=None,
    peak_memory_bytes=1000,
    routing=None,
    environment={"threads": 1},
)
NUMBERS = [name for name, value in asdict(GOOD).items() if isinstance(value, int | float)] + ["mfu"]


def test_what_is_written_is_read(tmp_path):
    GOOD.save(tmp_path)
    assert read_result(tmp_path) == GOOD


@pytest.mark.parametrize("value", [-1, -1.5, float("nan"), "1", True])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_cannot_be_is_refused(tmp_path, name, value):
    (tmp_path / RESULT).write_text(json.dumps(asdict(GOOD) | {name: value}))
    with pytest.raises(UserError, match=rf"result\.json: {name}=.* must be"):
        read_result(tmp_path)
