"""The explorer's server, asked as a browser, and as others, would ask it."""

import http.client
import json
import re

import pytest

from limelm.errors import UserError
from limelm.explorer import server as serving
from limelm.explorer.page import data_of
from tests.explorer.served import LABELS, TEXT, served

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with served(tmp_path_factory.mktemp("served")) as number:
        yield number


def ask(port, body, path="/explore", method="POST", **headers):
    """The status and the JSON, or the text, of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}", "Content-Type": "application/json"}
    sent = {name: value for name, value in (own | headers).items() if value is not None}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content if method == "POST" else None, sent)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    is_json = "json" in answer.headers.get("Content-Type", "")
    return answer.status, json.loads(text) if is_json else text


def test_the_page_is_served_and_is_live(port):
    status, text = ask(port, None, "/", "GET")
    data = data_of(text)
    assert status == 200 and data["live"] and [model["label"] for model in data["models"]] == list(LABELS)


def test_other_sentences_are_read(port):
    status, data = ask(port, {"text": "all of them\nwere gone", "changes": []})
    assert status == 200 and data["text"] == "all of them\nwere gone"
    for model in data["models"]:
        assert "".join(token["text"] for token in model["tokens"][1:]) == data["text"]
        assert model["measured"] and model["places"][0]["weights"]["base64"]


def test_cut_routes_change_the_prediction_until_they_are_restored(port):
    def losses(changes):
        status, data = ask(port, {"text": TEXT, "changes": changes})
        assert status == 200
        return [model["loss"][1:] for model in data["models"]]

    own = losses([])
    assert ask(port, {"text": TEXT, "changes": [{"place": 2, "source": 0}]})[1]["models"][0]["measured"]
    cut = losses([{"place": 2, "source": 0, "row": None}, {"place": 3, "source": 1, "row": 0}])
    for one, other in zip(own, cut, strict=True):
        assert one != other
    assert losses([]) == own


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_others_are_not_answered(port, headers, status):
    found, answer = ask(port, {"text": TEXT, "changes": []}, **headers)
    assert found == status and set(answer) == {"error"}


def test_the_page_is_shown_under_names_of_this_machine_only(port):
    for host, status in ((f"127.0.0.1:{port}", 200), ("evil.example", 403), (f"localhost.evil.example:{port}", 403)):
        assert ask(port, None, "/", "GET", Host=host)[0] == status


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "nested too deeply|not JSON"),
        (b"\xff", 400, "not UTF-8"),
        ({"text": TEXT}, 400, "no value for changes"),
        ({"text": 5, "changes": []}, 400, "text=5 must be a string"),
        ({"text": TEXT, "changes": [], "more": 1}, 400, "more"),
        ({"text": TEXT, "changes": [{"place": 1}]}, 400, "no value for .*source"),
        ({"text": TEXT, "changes": [{"place": 77, "source": 0}]}, 400, "layer 77 reads nothing that can be cut"),
        ({"text": TEXT, "changes": [{"place": 1, "source": 0, "row": 44}]}, 400, "layer 1 has no head 44"),
        ({"text": "late " * 100, "changes": []}, 400, "reads at most 32"),
        ({"text": TEXT, "changes": [{"place": 1, "source": 0}] * 1001}, 400, "1001 changes are more than 1,000"),
        (b'{"text": "\\ud800 a", "changes": []}', 400, "halves of characters"),
        ({"text": "", "changes": []}, 400, "the text is empty"),
        (b" " * 300_000, 413, "at most 262,144 bytes"),
    ],
)
def test_bad_questions_have_one_line(port, body, status, message):
    found, answer = ask(port, body)
    assert found == status and re.search(message, answer["error"]) and "\n" not in answer["error"]


def test_answers_are_not_kept_or_framed(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/", headers={"Host": f"localhost:{port}"})
    headers = connection.getresponse().headers
    assert (headers["Cache-Control"], headers["X-Frame-Options"]) == ("no-store", "DENY")
    assert headers["X-Content-Type-Options"] == "nosniff" and "Access-Control-Allow-Origin" not in headers
    connection.close()


def test_too_many_questions_are_refused(port, monkeypatch):
    monkeypatch.setattr(serving, "MOST_REQUESTS", 0)
    status, answer = ask(port, {"text": TEXT, "changes": []})
    assert (status, answer["error"]) == (400, "more than 0 questions in 60 seconds; wait a little")


def test_a_port_in_use_is_refused(port):
    with pytest.raises(UserError, match=f"--port: {port} cannot be used .*; give another"):
        serving.check_port(port)


NAME = "me-space.hf.space"


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A port that is served behind the proxy of a Space."""
    with served(tmp_path_factory.mktemp("space"), NAME) as number:
        yield number


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": NAME, "Origin": f"https://{NAME}"}, 200),
        ({"Host": NAME.upper(), "Origin": f"https://{NAME}"}, 200),
        ({}, 200),
        ({"Host": NAME, "Origin": "https://huggingface.co"}, 403),
        ({"Host": NAME, "Origin": "https://evil.hf.space"}, 403),
        ({"Host": "evil.hf.space", "Origin": "https://evil.hf.space"}, 403),
        ({"Host": f"{NAME}.evil.example", "Origin": f"https://{NAME}"}, 403),
    ],
)
def test_a_named_page_answers_to_its_name_and_its_own_pages(space, headers, status):
    assert ask(space, {"text": TEXT, "changes": []}, **headers)[0] == status


def test_a_refused_name_is_named(space):
    _, answer = ask(space, None, "/", "GET", Host="other.example")
    assert answer["error"] == "this server answers to its own names only, not to 'other.example' (--name adds one)"


def test_the_hub_alone_may_show_a_space_in_a_frame(space):
    connection = http.client.HTTPConnection("127.0.0.1", space, timeout=60)
    connection.request("GET", "/", headers={"Host": NAME})
    headers = connection.getresponse().headers
    connection.close()
    assert headers["Content-Security-Policy"] == "frame-ancestors 'self' https://huggingface.co"
    assert "X-Frame-Options" not in headers


def test_who_is_answered_follows_from_the_address():
    assert serving.Address(80).hosts == {"127.0.0.1:80", "localhost:80"} and not serving.Address(80).is_open
    everywhere = serving.Address(80, "0.0.0.0")
    assert everywhere.hosts == serving.Address(80).hosts and everywhere.is_open
    assert (everywhere.url, serving.Address(80, "192.0.2.7").url) == ("http://localhost:80/", "http://192.0.2.7:80/")
    assert "192.0.2.7:80" in serving.Address(80, "192.0.2.7").hosts
    assert serving.Address(80, names=("a.example",)).frame_headers == {"X-Frame-Options": "DENY"}
    assert "https://a.example:80" not in serving.Address(80, names=("a.example",)).origins
