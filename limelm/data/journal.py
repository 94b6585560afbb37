"""A preparation's progress on disk, so that it goes on after a kill.

A folder NAME is prepared in the hidden folder `.NAME.partial` beside it, which holds `journal.json`, `lock` and, below
`prepared/`, what becomes NAME when all is done. The journal is true at every moment: it is written beside and renamed,
after the shards that it counts; what they hold beyond it is dropped when the preparation goes on. NAME holds
`preparation.json`, the settings that it was prepared with, so that the same call says that it is complete.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from limelm.data.errors import Interruption, interrupted_by_disk
from limelm.data.holdout import HoldOut
from limelm.data.writer import WriterState
from limelm.errors import UserError
from limelm.files import lock, partial_of, refuse_links, write_text
from limelm.records import Count, build, load_json

JOURNAL, LOCK, PREPARED = "journal.json", "lock", "prepared"
SETTINGS = "preparation.json"  # in the prepared folder
FORMAT_VERSION = 1


@dataclass
class Journal:
    """The work done so far, and the settings it was done with."""

    settings: dict[str, Any]
    hold_out: HoldOut
    documents: Count = 0  # read, tokenized and written
    position: Any = None  # in the source, after these documents
    splits: dict[str, WriterState] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write `journal.json`.

        Raises:
            Interruption: where it cannot be written.
        """
        with interrupted_by_disk():
            write_text(folder / JOURNAL, json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}))

    @classmethod
    def load(cls, folder: Path) -> "Journal":
        """Read `journal.json`.

        Raises:
            UserError: where it is broken, or of another version.
        """
        path = folder / JOURNAL
        try:
            content = load_json(path)
            version = content.pop("format_version", None) if isinstance(content, dict) else None
            if version != FORMAT_VERSION:
                raise UserError(f"{path}: format_version={version!r}; this limelm reads {FORMAT_VERSION}")
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
        """The folder that is renamed to the prepared folder at the end."""
        return self.folder / PREPARED

    def save(self, journal: Journal) -> None:
        """Save the journal: the preparation can be resumed from here."""
        journal.save(self.folder)
        self.journal = journal

    def discard(self) -> None:
        """Remove everything, the journal first."""
        self.journal = None
        (self.folder / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def is_finished(out: Path, settings: dict[str, Any]) -> bool:
    """Whether `out` was prepared to the end with these settings; removes leftovers of a kill after the end.

    Raises:
        UserError: where it holds anything else.
    """
    if not _holds_something(out):
        return False
    if not (out / SETTINGS).is_file():
        raise UserError(f"{out}: already there; name a new folder or remove it")
    refuse_other_settings(out, settings)
    left = Preparation(partial_of(out.resolve()))
    if left.folder.exists() and not left.prepared.exists():
        with _locked(left.folder, out):
            left.discard()
    return True


@contextmanager
def preparation(out: Path, settings: dict[str, Any]) -> Iterator[Preparation]:
    """Begin to prepare `out`, or go on; when the block ends without an error, `out` is complete.

    What was done stays for the next call with the same settings after a kill, Ctrl-C, a full disk or another
    interruption. Bad input leaves nothing.

    Raises:
        UserError: where `out` already holds something or cannot be written, or was begun with other settings; for bad
            input; or for an interruption.
    """
    target = out.resolve()
    work = Preparation(partial_of(target))
    try:
        if _holds_something(out):
            raise UserError(f"{out}: already there; name a new folder or remove it")
        with _locked(work.folder, out):
            refuse_links(work.folder)
            work.journal = _unfinished(work.folder, settings)
            try:
                yield work
                with interrupted_by_disk():
                    write_text(work.prepared / SETTINGS, json.dumps(settings, indent=2) + "\n")
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
        raise _kept(work, "a tokenizing process died, perhaps for want of memory; try fewer --processes") from error
    except OSError as error:
        raise _kept(work, str(UserError.from_os_error(out, error))) from error


def _holds_something(out: Path) -> bool:
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def refuse_other_settings(out: Path, settings: dict[str, Any], names: Iterable[str] | None = None) -> None:
    """Refuse a prepared folder whose settings are others.

    Args:
        names: of the settings that are compared; by default all.

    Raises:
        UserError: for the first that differs.
    """
    there = build(dict[str, Any], load_json(out / SETTINGS), str(out / SETTINGS))
    compared = list(there | settings if names is None else names)
    other = _first_difference(*({name: each.get(name) for name in compared} for each in (there, settings)))
    if other:
        raise UserError(f"{out}: already there, prepared with {other}; name a new folder or remove it")


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    if folder.is_symlink():
        raise UserError(f"{folder}: a symbolic link, which is not written through; remove it")
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / LOCK, f"{out}: another process is preparing it right now"):
        yield


def _unfinished(folder: Path, settings: dict[str, Any]) -> Journal | None:
    """The journal of a preparation that was stopped; if there is none, None, and `prepared/` is made anew, empty."""
    if not (folder / JOURNAL).exists() or not (folder / PREPARED).exists():
        (folder / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(folder / PREPARED, ignore_errors=True)
        (folder / PREPARED).mkdir()
        return None
    journal = Journal.load(folder)
    other = _first_difference(journal.settings, settings)
    if other:
        raise UserError(
            f"{folder}: begun with {other}; give the same settings to go on, or remove this folder to begin anew"
        )
    return journal


def _first_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    for name in before | now:
        if before.get(name) != now.get(name):
            return f"{name}={before.get(name)!r}, not {now.get(name)!r}"
    return None


def _kept(work: Preparation, message: str) -> UserError:
    if work.journal is not None:
        message += "; what is done is kept, and the same command goes on from there"
    return UserError(message)
