import csv
import json

import pytest

from limelm.cli import main
from limelm.loading import load_model
from tests.analysis.models_on_text import write_study
from tests.cli.test_cli import fails

SMALL = ["--tokens", "320", "--sequence-length", "16", "--occurrences", "12"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("analyze"))


def analyze(folder, *names, data="tokens", out="out"):
    checkpoints = [str(folder / name) for name in names]
    return ["analyze", *checkpoints, "--data", str(folder / data), "--out", str(folder / out), *SMALL]


def test_one_report_for_several_models(folder, capsys):
    assert main(analyze(folder, "llama-like", "dynamic", "kv")) == 0
    out, err = capsys.readouterr()
    assert (
        "llama-like: no retrieval, effects: it has no routers" in err
        and f"Report: {folder / 'out' / 'report.html'}" in out
    )
    page = (folder / "out" / "report.html").read_text()
    assert "llama-like" in page and "dynamic" in page and "http://" not in page.replace("http://www.w3.org", "")
    figures = {path.suffix for path in (folder / "out" / "figures").iterdir()}
    assert figures == {".png", ".svg", ".csv"}
    assert len(json.loads((folder / "out" / "analysis.json").read_text())["models"]) == 3


def test_other_connections_show_their_weights(folder, capsys):
    """Of AttnRes, whose weights depend on tokens, they are those of its sublayers."""
    assert main([*analyze(folder, "dense", "blocks", "llama-like", out="others"), "--only", "retrieval"]) == 0
    assert "llama-like: no retrieval: it has no routers" in capsys.readouterr().err
    rows = []
    for path in (folder / "others" / "figures").glob("weights-*.csv"):
        with path.open() as stream:
            rows += csv.DictReader(stream)
    weight = load_model(folder / "dense").model.layers[3].connection.weight.detach().abs()  # of outputs 0, 2 and 4
    found = {int(row["source"]): float(row["weight"]) for row in rows if (row["model"], row["layer"]) == ("dense", "4")}
    assert found == pytest.approx(dict(zip((0, 2, 4), (weight / weight.sum()).tolist(), strict=True)))
    sublayers = [row for row in rows if row["model"] == "blocks (sublayers)"]
    assert {(int(row["layer"]), int(row["head"])) for row in sublayers} == {(r, h) for r in range(1, 9) for h in (0, 1)}
    assert sum(float(row["weight"]) for row in sublayers) == pytest.approx(16)  # rows
    page = (folder / "others" / "report.html").read_text()
    assert "blocks (sublayers)" in page and "Of a model marked (sublayers)" in page and "Semantic circuits" not in page
    named = {path.stem for path in (folder / "others" / "figures").glob("*.png")}
    assert {"weights-dense", "weights-blocks-sublayers", "layer_mass", "mean_retrieval"} <= named


def test_an_analysis_may_be_made_again_in_its_folder_and_leaves_nothing_of_the_earlier(folder):
    assert main(analyze(folder, "kv", out="again")) == 0
    assert main([*analyze(folder, "dynamic", out="again"), "--only", "entropy"]) == 0
    assert {path.stem for path in (folder / "again" / "figures").iterdir() if path.suffix == ".csv"} <= {
        "entropy-values",
        "entropy-hidden-states",
        "entropy",
    }


def test_interrupted_it_keeps_the_models_that_are_done(folder, monkeypatch, capsys):
    from limelm.analysis import checkpoints

    load = checkpoints.load_on

    def interrupted(device, checkpoint):
        if "dynamic" in str(checkpoint):
            raise KeyboardInterrupt
        return load(device, checkpoint)

    monkeypatch.setattr(checkpoints, "load_on", interrupted)
    line = fails(capsys, *analyze(folder, "kv", "dynamic", out="stopped"), "--only", "cka", code=130)
    assert "holds 1 of 2 models" in line and (folder / "stopped" / "report.html").exists()
    line = fails(capsys, *analyze(folder, "dynamic", out="none"), code=130)
    assert "nothing was written" in line and not (folder / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "entropie"], "--only: 'entropie' is not one of retrieval, entropy, separability, tsne, circuits"),
        (["--only", ","], "--only: ',' names nothing"),
        (["--words", "is,zebra"], "--words: 'zebra' is"),
        (["--words", "is,were", "--data", "cats.txt"], "no occurrences of 'were' in the data, at least 10 needed"),
        (["--alpha", "0"], "--alpha: 0.0 must be a positive number"),
        (["--alpha", "x"], "--alpha: invalid float value: 'x'"),
        (["--probe", "deep"], "--probe: invalid choice: 'deep'"),
        (["--tokens", "0"], "--tokens: 0 must be at least 1"),
        (["--sequence-length", "100"], "its context of 32 tokens is shorter than --sequence-length 100"),
        (["--device", "tpu"], "--device: 'tpu' is not cpu, cuda or cuda:N"),
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        (["--only", "circuits"], "--only: circuits"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    (folder / "cats.txt").write_text("the cat is here " * 50)
    line = fails(capsys, *analyze(folder, "kv", out="bad"), *arguments)
    assert message.replace("--only: circuits", "--only circuits:") in line
    assert not (folder / "bad").exists()


def test_a_folder_that_holds_something_else_is_refused(folder, capsys):
    assert "already holds other files" in fails(capsys, *analyze(folder, "kv", out="kv"))


def test_without_a_checkpoint_or_data(folder, capsys):
    assert "required: CHECKPOINT, --out, --data" in fails(capsys, "analyze")
