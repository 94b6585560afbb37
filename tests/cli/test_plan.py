import pytest

from limelm.cli import main
from tests.recipes import write_recipe


@pytest.fixture
def recipe(tmp_path) -> str:
    return str(write_recipe(tmp_path))


def test_the_plan_is_printed(recipe, capsys):
    assert main(["plan", recipe, "--model", "static", "--gpus", "2", "--steps", "1000"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("small-static on 2 GPUs of 80 GiB: DDP, fp32\n1,000 steps of 2 sequences of 32 tokens")
    for words in (
        "parameters",
        "FLOPs",
        "Adam's two moments",
        "checkpoints",
        "GPU-hours",
        "assumes 40% of 989 TFLOP/s",
        "computes in float32",
    ):
        assert words in out
    assert not err


def test_what_does_not_fit_is_printed_and_refused(recipe, capsys):
    assert main(["plan", recipe, "--model", "kv", "--gpu-memory", "1"]) == 2
    out, err = capsys.readouterr()
    assert "  total" in out
    assert err.startswith("limelm: error: small-kv needs 1.5 GiB per GPU, 0.5 more than --gpu-memory 1; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "argument --gpus: 0 must be at least 1"),
        (["--gpus", "3"], "training.batch_size=2 cannot be shared evenly by 3"),
        (["--gpu-memory", "-1"], "argument --gpu-memory: -1 must be more than 0"),
        (["--gpu-memory", "much"], "argument --gpu-memory: 'much' is not a number"),
        (["--mfu", "7"], "argument --mfu: 7 must be at most 1"),
        (["--peak-tflops", "nan"], "argument --peak-tflops: nan must be more than 0"),
        (["--tokens-per-second", "0"], "argument --tokens-per-second: 0 must be more than 0"),
        (["--sharding", "fsdp"], "engine.sharding='fsdp' needs several GPUs"),
        (["--micro-batch-size", "0"], "engine.micro_batch_size=0 must be at least 1"),
    ],
)
def test_bad_input_is_one_line(recipe, arguments, message, capsys):
    try:
        code = main(["plan", recipe, "--model", "static", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_an_unknown_recipe_is_refused(capsys):
    assert main(["plan", "tiny", "--model", "statik"]) == 2
    err = capsys.readouterr().err
    assert "unknown model 'statik'" in err and "static" in err and err.count("\n") == 1
