"""A server that answers like the explorer's, with made-up data."""

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from limelm.explorer.page import page, to_json
from tests.explorer.sample import sample

OPTIONS = {"count": 12, "layers": 5}


def answer(text, changes):
    """Data of a text; each cut route changes the losses."""
    data = sample(2, text=text, live=True, **OPTIONS)
    for model in data["models"]:
        model["loss"] = [None, *(loss + 0.25 * len(changes) for loss in model["loss"][1:])]
        if changes:
            model["predictions"] = [list(reversed(five)) for five in model["predictions"]]
    return data


@contextmanager
def served():
    """Serve a live page; yields its address and what was asked. A text "fail" is refused, "slow" takes a second."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, "text/html; charset=utf-8", page(answer("The old clock maker", [])))

        def do_POST(self):
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if question["text"] == "slow":
                time.sleep(1)
            asked.append((self.path, self.headers["Content-Type"], question))
            if question["text"] == "fail":
                self.reply(400, "application/json", json.dumps({"error": "the text is too long <b>by far</b>"}))
            else:
                self.reply(200, "application/json", to_json(answer(question["text"], question["changes"])))

        def reply(self, status, kind, content):
            with suppress(ConnectionError):  # who asked may have given up
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(content.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        server.server_close()
