"""Where a preparation stands, on disk, so that it goes on after a kill.

A folder NAME is prepared in the hidden folder `.NAME.partial` beside it, which holds `journal.json`, `lock` and, below
`prepared/`, what becomes NAME when all is done. The journal is true at every moment: it is written beside and renamed,
after the shards that it counts; what they hold beyond it is dropped when the preparation goes on.
"""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from limelm.data.errors import Interruption
from limelm.data.holdout import HoldOut
from limelm.data.writer import WriterState
from limelm.errors import UserError
from limelm.files import lock, write_text
from limelm.records import Count, build, load_json

JOURNAL, LOCK, PREPARED = "journal.json", "lock", "prepared"
FORMAT_VERSION = 1


@dataclass
class Journal:
    """What has been done, and what it was done with."""

    settings: dict[str, Any]
    hold_out: HoldOut
    documents: Count = 0  # read, tokenised and written
    position: Any = None  # in the source, after these documents
    splits: dict[str, WriterState] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write `journal.json`.

        Raises:
            Interruption: where it cannot be written.
        """
        try:
            write_text(folder / JOURNAL, json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}))
        except UserError as error:
            raise Interruption(str(error)) from error

    @classmethod
    def load(cls, folder: Path) -> "Journal":
        """Read `journal.json`.

        Raises:
            UserError: where it is broken, or of another version.
        """
        path = folder / JOURNAL
        try:
            content = load_json(path)
            if isinstance(content, dict) and content.pop("format_version", None) != FORMAT_VERSION:
                raise UserError(f"{path}: of another format_version than this limelm's {FORMAT_VERSION}")
            journal: Journal = build(cls, content, str(path))
        except UserError as error:
            raise UserError(f"{error}; remove {folder} to begin anew") from error
        return journal


@dataclass
class Preparation:
    """A prepared folder in the making."""

    folder: Path
    journal: Journal | None = None  # None at the very beginning, and when there is nothing to keep

    @property
    def prepared(self) -> Path:
        """What becomes the prepared folder."""
        return self.folder / PREPARED

    def save(self, journal: Journal) -> None:
        """From here on the preparation can be gone on with."""
        journal.save(self.folder)
        self.journal = journal

    def discard(self) -> None:
        """Remove everything, the journal first."""
        self.journal = None
        (self.folder / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def preparation(out: Path, settings: dict[str, Any]) -> Iterator[Preparation]:
    """Begin to prepare `out`, or go on; when the block ends well, `out` is there.

    What was done stays for the next call with the same settings after a kill, Ctrl-C, a full disk or another
    interruption. Bad input leaves nothing.

    Raises:
        UserError: where `out` already holds something or cannot be written, or was begun with other settings; for bad
            input; or for an interruption.
    """
    target = out.resolve()
    work = Preparation(target.with_name(f".{target.name}.partial"))
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: already there; name a new folder or remove it")
        work.folder.mkdir(parents=True, exist_ok=True)
        with lock(work.folder / LOCK, f"{out}: another process is preparing it right now"):
            work.journal = _unfinished(work.folder, settings)
            try:
                yield work
                if target.exists():
                    target.rmdir()
                work.prepared.rename(target)
                work.journal = None
            except Interruption:
                raise
            except UserError:
                work.journal = None
                raise
            finally:
                if work.journal is None:
                    work.discard()
    except Interruption as error:
        raise _kept(work, str(error)) from error
    except BrokenProcessPool as error:
        raise _kept(work, "a tokenising process died, perhaps for want of memory; try fewer --processes") from error
    except OSError as error:
        raise _kept(work, str(UserError.from_os_error(out, error))) from error


def _unfinished(folder: Path, settings: dict[str, Any]) -> Journal | None:
    """The journal of a preparation that was stopped; None where there is none, and then an empty `prepared/`."""
    if not (folder / JOURNAL).exists() or not (folder / PREPARED).exists():
        (folder / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(folder / PREPARED, ignore_errors=True)
        (folder / PREPARED).mkdir()
        return None
    journal = Journal.load(folder)
    for name in journal.settings | settings:
        before, now = journal.settings.get(name), settings.get(name)
        if before != now:
            raise UserError(
                f"{folder}: begun with {name}={before!r}, not {now!r}; give the same settings to go on, "
                "or remove this folder to begin anew"
            )
    return journal


def _kept(work: Preparation, message: str) -> UserError:
    if work.journal is not None:
        message += "; what is done is kept, and the same command goes on from there"
    return UserError(message)
