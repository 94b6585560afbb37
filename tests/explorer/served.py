"""The explorer's own server, in a thread of this process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoTokenizer

from limelm.explorer import Subject
from limelm.explorer import server as serving
from limelm.loading import load_model
from tests.analysis.models_on_text import write_study

TEXT = "one day it was late"
LABELS = ("static", "dynamic")


def free_port() -> int:
    """A port that nothing on this machine listens on."""
    with socket.socket() as probe:
        probe.bind((serving.LOOPBACK, 0))
        return probe.getsockname()[1]


@contextmanager
def served(folder: Path, *names: str) -> Iterator[int]:
    """Serve two tiny models, under other names too; yields the port."""
    import uvicorn

    write_study(folder)
    port = free_port()
    explorer = serving.Explorer([_subject(folder / name) for name in LABELS], TEXT)
    application = serving.make_application(explorer, serving.Address(port, names=names))
    server = uvicorn.Server(uvicorn.Config(application, host=serving.LOOPBACK, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


def _subject(folder: Path) -> Subject:
    return Subject(folder.name, load_model(folder), AutoTokenizer.from_pretrained(folder))
