"""The explorer's server: a page on this machine alone that reads other sentences and cuts routes.

It answers nobody else: it listens on the loopback address, takes requests by a name of this machine only (Host), and
only from pages that it has served (Origin), so that no other site that is open in a browser can use it.
"""

import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from limelm.errors import UserError
from limelm.explorer.exploration import Exploration, Subject, explore_subjects
from limelm.explorer.measure import as_blocks, cut_routes
from limelm.explorer.page import to_json
from limelm.extras import import_extra
from limelm.records import AnyText, build, parse_json

LOOPBACK = "127.0.0.1"
MOST_BYTES = 256 * 1024  # of a request
MOST_CHANGES = 1_000
MOST_REQUESTS, PER_SECONDS = 120, 60  # of measurements


@dataclass(frozen=True)
class Change:
    """A route that is cut: `row` counts over all sets of the place; None means all rows."""

    place: int
    source: int
    row: int | None = None


@dataclass(frozen=True)
class Question:
    """A question of a page: a text, and the routes that are cut while models read it."""

    text: AnyText
    changes: list[Change]


class Explorer:
    """Answers questions on the models that it keeps, one after the other."""

    def __init__(self, subjects: Sequence[Subject], text: str):
        self.subjects = subjects
        self.first = explore_subjects(subjects, text, is_live=True)
        self._lock = threading.Lock()
        self._asked: deque[float] = deque()

    def answer(self, question: Question) -> Exploration:
        """Measure all models, with the routes cut.

        Raises:
            UserError: for a text or a route that cannot be had, or too many questions at once.
        """
        self._count()
        changes = [vars(change) for change in question.changes]
        with self._lock, ExitStack() as stack:
            if changes:
                for subject in self.subjects:
                    stack.enter_context(cut_routes(subject.model, changes))
            return explore_subjects(self.subjects, question.text, is_live=True)

    def _count(self) -> None:
        now = time.monotonic()
        while self._asked and self._asked[0] < now - PER_SECONDS:
            self._asked.popleft()
        if len(self._asked) >= MOST_REQUESTS:
            raise UserError(f"more than {MOST_REQUESTS} questions in {PER_SECONDS} seconds; wait a little")
        self._asked.append(now)


def make_application(explorer: Explorer, port: int) -> Any:
    """Make the ASGI application.

    Args:
        port: that it is served on, which is part of the names that it answers to.
    """
    applications = import_extra("starlette.applications", "explore")
    responses = import_extra("starlette.responses", "explore")
    routing = import_extra("starlette.routing", "explore")
    concurrency = import_extra("starlette.concurrency", "explore")
    hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
    origins = {f"http://{host}" for host in hosts}
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}

    def refusal(request: Any) -> Any:
        """The answer to somebody who must not ask; None to others."""
        if request.headers.get("host") not in hosts:
            return problem("this server answers to the names of this machine only", 403)
        if request.method == "POST" and request.headers.get("origin") not in origins:
            return problem("this server answers pages of its own only", 403)
        return None

    def problem(line: str, status: int) -> Any:
        return responses.Response(to_json({"error": line}), status, headers, "application/json")

    async def show(request: Any) -> Any:
        return refusal(request) or responses.HTMLResponse(explorer.first.page(), headers=headers)

    async def ask(request: Any) -> Any:
        refused = refusal(request)
        if refused is not None:
            return refused
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            return problem("a question is JSON", 415)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return problem(f"a question has at most {MOST_BYTES:,} bytes", 413)
        try:
            question = read_question(body)
            exploration = await concurrency.run_in_threadpool(explorer.answer, question)
        except UserError as error:
            return problem(str(error), 400)
        content = to_json(as_blocks(exploration.data))
        return responses.Response(content, 200, headers, "application/json")

    return applications.Starlette(
        routes=[routing.Route("/", show), routing.Route("/explore", ask, methods=["POST"])],
    )


def read_question(body: bytes) -> Question:
    """Read a request's body.

    Raises:
        UserError: for anything that is no question.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("the question is not UTF-8") from error
    question = build(Question, parse_json(text, "the question"), "the question")
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in question.text):
        raise UserError("the question: the text has halves of characters, which no tokenizer reads")
    if len(question.changes) > MOST_CHANGES:
        raise UserError(f"the question: {len(question.changes)} changes are more than {MOST_CHANGES:,}")
    return question


def check_port(port: int) -> None:
    """Refuse a port that something else listens on.

    Raises:
        UserError: where that is so.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(f"--port: {port} cannot be used ({error.strerror}); give another") from error


def serve(explorer: Explorer, port: int) -> None:
    """Serve until Ctrl-C."""
    uvicorn = import_extra("uvicorn", "explore")
    application = make_application(explorer, port)
    config = uvicorn.Config(application, host=LOOPBACK, port=port, log_level="warning", access_log=False)
    uvicorn.Server(config).run()
