"""`limelm explore`."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from limelm.cli import main
from limelm.explorer.page import data_of
from tests.analysis.models_on_text import write_study
from tests.explorer.served import free_port

TEXT = "one day it was late"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("explore"))


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def asked_as(name, port):
    """The status of the page for whoever asks by a name."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/", headers={"Host": name})
    status = connection.getresponse().status
    connection.close()
    return status


def shown(path):
    return data_of(path.read_text(encoding="utf-8"))


def test_a_page_is_written_and_written_again(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    for text in (TEXT, "all of them"):
        assert main(["explore", "static", "dynamic", "llama-like", "--text", text]) == 0
        assert capsys.readouterr().out == "Page: explorer/explorer.html\n"
        data = shown(folder / "explorer" / "explorer.html")
        assert [model["label"] for model in data["models"]] == ["static", "dynamic", "llama-like"]
        assert (data["text"], data["kind"], data["live"]) == (text, "checkpoints", False)


def test_the_document(folder, capsys):
    out = folder / "document"
    assert main(["explore", str(folder / "kv"), "--text", TEXT, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    tokens = len(shown(out / "explorer.html")["models"][0]["tokens"])
    expected = {"out": str(out), "page": str(out / "explorer.html"), "models": ["kv"], "tokens": {"kv": tokens}}
    assert document == expected


def test_steps_of_a_training_are_in_order_and_have_its_tokenizer(folder):
    training = folder / "training"
    for step in (20, 100, 3):
        shutil.copytree(folder / "static", training / "checkpoints" / f"checkpoint-{step}")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (training / "checkpoints" / f"checkpoint-{step}" / name).unlink()
    shutil.copytree(folder / "static", training, dirs_exist_ok=True)
    steps = [str(training / "checkpoints" / f"checkpoint-{step}") for step in (20, 100, 3)]
    assert main(["explore", *steps, "--text", TEXT, "--out", str(folder / "steps")]) == 0
    data = shown(folder / "steps" / "explorer.html")
    assert data["kind"] == "steps" and [model["step"] for model in data["models"]] == [3, 20, 100]
    assert main(["explore", steps[0], "--text", TEXT, "--out", str(folder / "one")]) == 0
    assert shown(folder / "one" / "explorer.html")["kind"] == "checkpoints"


def test_another_file_of_the_pages_name_is_left_alone(folder, capsys):
    page = folder / "own" / "explorer.html"
    page.parent.mkdir()
    page.write_text("<html>my own page</html>")
    assert main(["explore", str(folder / "static"), "--text", TEXT, "--out", str(page.parent)]) == 2
    assert "is another file of that name" in capsys.readouterr().err
    assert page.read_text() == "<html>my own page</html>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere"),
        (["static", "--port", "8000"], "--port: only with --serve"),
        (["static", "--host", "0.0.0.0"], "--host: only with --serve"),
        (["static", "--name", "a.example"], "--name: only with --serve"),
        (["static", "--serve", "--host", "192.0.2.1"], "--host: 192.0.2.1 is no address of this machine"),
        (["static", "--serve", "--json"], "--json: not with --serve"),
        (["static", "--text", ""], "the text is empty"),
        (["static", "--serve", "--out", "o"], "--out: not with --serve"),
        (["static", "--text", "late " * 200], "reads at most 32"),
        (["static", "--device", "tpu"], "--device: 'tpu' is not cpu"),
        (["static", "--out", "kv"], "already holds other files"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(folder, capsys, monkeypatch, options, message):
    monkeypatch.chdir(folder)
    given = options if "--text" in options else [*options, "--text", TEXT]
    assert main(["explore", *given]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (folder / "o").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--host", "everywhere", "'everywhere' is no IPv4 address"),
        ("--host", "::", "'::' is no IPv4 address"),
        ("--name", "http://a.example/", "'http://a.example/' is no name such as"),
        ("--name", "a.example:80", "'a.example:80' is no name such as"),
        ("--name", "-", "'-' is no name such as"),
        ("--name", "*", "'*' is no name such as"),
    ],
)
def test_an_address_or_name_that_is_none_is_refused(folder, capsys, option, value, message):
    with pytest.raises(SystemExit):
        main(["explore", str(folder / "static"), "--text", TEXT, "--serve", f"{option}={value}"])
    assert f"argument {option}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Only this machine can open it."),
        (["--host", "0.0.0.0", "--name", "me-space.hf.space"], "Warning: whoever reaches this machine can open it"),
    ],
)
def test_a_live_page_is_served_until_it_is_interrupted(folder, options, said):
    pytest.importorskip("uvicorn")
    port = free_port()
    command = [sys.executable, "-m", "limelm", "explore", str(folder / "static"), "--text", TEXT, "--serve"]
    command += ["--port", str(port), "--device", "cpu", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        while not lines or "The page is at" not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        assert f"http://localhost:{port}/" in lines[-1] and "Ctrl-C" in lines[-1] and said in lines[-1]
        while not answers(port):
            time.sleep(0.05)
        for name, status in ((f"localhost:{port}", 200), ("evil.example", 403), ("me-space.hf.space", 403)):
            assert asked_as(name, port) == (200 if name in options else status)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
