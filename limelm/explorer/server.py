"""The explorer's server: a page that reads other sentences and cuts routes, by default for this machine alone.

It listens on the loopback address unless it is given another, takes requests by its own names only (Host), and only
from pages that it has served (Origin), so that no other site that is open in a browser can use it.
"""

import errno
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from limelm.errors import UserError
from limelm.explorer.exploration import Exploration, Subject, explore_subjects
from limelm.explorer.measure import Change, as_blocks, cut_routes
from limelm.explorer.page import to_json
from limelm.extras import import_extra
from limelm.records import AnyText, build, parse_json
from limelm.text import printable

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
SPACES = ".hf.space"  # how the names of Hugging Face Spaces end
MOST_HOST = 100  # characters of a name that is refused
MOST_BYTES = 256 * 1024  # of a request
MOST_CHANGES = 1_000
MOST_REQUESTS, PER_SECONDS = 120, 60  # of measurements


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
        with self._lock, ExitStack() as stack:
            if question.changes:
                for subject in self.subjects:
                    stack.enter_context(cut_routes(subject.model, question.changes))
            return explore_subjects(self.subjects, question.text, is_live=True)

    def _count(self) -> None:
        now = time.monotonic()
        while self._asked and self._asked[0] < now - PER_SECONDS:
            self._asked.popleft()
        if len(self._asked) >= MOST_REQUESTS:
            raise UserError(f"more than {MOST_REQUESTS} questions in {PER_SECONDS} seconds; wait a little")
        self._asked.append(now)


@dataclass(frozen=True)
class Address:
    """Where a page is served, and the names by which it is asked for.

    Attributes:
        port, host: that it listens on; by default this machine alone reaches it.
        names: others by which people reach it, behind a proxy or port of another number too, such as a Space's.
    """

    port: int
    host: str = LOOPBACK
    names: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The page's address in a browser on this machine."""
        return f"http://{'localhost' if self.host in (LOOPBACK, EVERYWHERE) else self.host}:{self.port}/"

    @property
    def is_open(self) -> bool:
        """Whether other machines may reach it."""
        return not ip_address(self.host).is_loopback

    @property
    def hosts(self) -> set[str]:
        """The values of Host with which requests are answered."""
        own = {LOOPBACK, "localhost", self.host} - {EVERYWHERE}
        return {f"{name}:{self.port}" for name in own | {*self.names}} | {*self.names}

    @property
    def origins(self) -> set[str]:
        """The sites whose pages may ask."""
        return {f"http://{host}" for host in self.hosts} | {f"https://{name}" for name in self.names}

    @property
    def frame_headers(self) -> dict[str, str]:
        """The headers that say who may show the page in a frame: of a Space the hub, else nobody."""
        if any(name.endswith(SPACES) for name in self.names):
            return {"Content-Security-Policy": "frame-ancestors 'self' https://huggingface.co"}
        return {"X-Frame-Options": "DENY"}


def make_application(explorer: Explorer, address: Address) -> Any:
    """Make the ASGI application.

    Args:
        address: where it is served, which decides who is answered.
    """
    applications = import_extra("starlette.applications", "explore")
    responses = import_extra("starlette.responses", "explore")
    routing = import_extra("starlette.routing", "explore")
    concurrency = import_extra("starlette.concurrency", "explore")
    hosts, origins = address.hosts, address.origins
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **address.frame_headers}

    def refusal(request: Any) -> Any:
        """The answer to somebody who must not ask; None to others."""
        if (host := request.headers.get("host", "")).lower() not in hosts:
            asked = printable(host[:MOST_HOST])
            return problem(f"this server answers to its own names only, not to {asked!r} (--name adds one)", 403)
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


def check_port(port: int, host: str = LOOPBACK) -> None:
    """Refuse a port that something else listens on, or an address that this machine does not have.

    Raises:
        UserError: where that is so.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"--host: {host} is no address of this machine; give another") from error
            raise UserError(f"--port: {port} cannot be used ({error.strerror}); give another") from error


def serve(explorer: Explorer, address: Address) -> None:
    """Serve until Ctrl-C."""
    uvicorn = import_extra("uvicorn", "explore")
    application = make_application(explorer, address)
    where = {"host": address.host, "port": address.port}
    config = uvicorn.Config(application, **where, log_level="warning", access_log=False)
    uvicorn.Server(config).run()
