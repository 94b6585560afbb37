"""Push models and adapters to the Hugging Face hub, with the card that was saved beside them.

transformers' own push puts an empty card in the place of the one that was saved. Here that one goes along, unless the
repository has a card: somebody may have filled it in there.
"""

import glob
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from huggingface_hub import CommitInfo, HfApi, ModelCard

from limelm._version import __version__
from limelm.models.card import CARD


class PushOptions(TypedDict, total=False):
    """The options of a push, as transformers names them."""

    repo_id: str
    private: bool | None
    token: bool | str | None
    revision: str | None
    create_pr: bool
    commit_message: str | None
    commit_description: str | None
    tags: str | list[str] | None


def take_push(options: Any, folder: Path, push_to_hub: bool = True, owner: str | None = None) -> PushOptions | None:
    """Take the options of a push out of keyword arguments; None where nothing is pushed.

    Args:
        options: keyword arguments, from which they are removed.
        folder: that is saved: its name is the repository's where none is given.
        owner: the function whose only options these are: others are refused in its name.

    Raises:
        TypeError: for options of a push where there is none, or others than these.
    """
    names = PushOptions.__annotations__
    taken = PushOptions(**{name: options.pop(name) for name in list(options) if name in names and push_to_hub})
    if owner is not None and options:
        name = next(iter(options))
        why = "is only for push_to_hub=True" if name in names else "is unknown"
        raise TypeError(f"{owner}: {name}={options[name]!r} {why}")
    taken.setdefault("repo_id", folder.resolve().name)
    return taken if push_to_hub else None


def push_model(model: Any, repo_id: str, max_shard_size: int | str, options: dict[str, Any]) -> CommitInfo:
    """Save a model into a temporary folder and push that; see `push_to_hub` of the models.

    Raises:
        TypeError: for an unknown option.
    """
    with tempfile.TemporaryDirectory() as place:
        push = take_push({**options, "repo_id": repo_id}, Path(place), owner="push_to_hub")
        assert push is not None
        push["tags"] = [*(model.model_tags or []), *_listed(push.get("tags"))]
        model.save_pretrained(place, max_shard_size=max_shard_size)
        return push_folder(Path(place), push, ["*"])


def push_folder(folder: Path, push: PushOptions, files: Iterable[str]) -> CommitInfo:
    """Push files of a folder, and its card where the repository has none.

    Args:
        push: how, with a `repo_id`.
        files: their paths in the folder, as patterns.
    """
    api = HfApi(library_name="limelm", library_version=__version__, token=push.get("token"))
    repo_id = api.create_repo(push["repo_id"], private=push.get("private"), exist_ok=True).repo_id
    revision, is_pull_request = push.get("revision"), push.get("create_pr", False)
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    has_card = api.file_exists(repo_id, CARD, revision=revision)
    if (tags := _listed(push.get("tags"))) and not has_card and (folder / CARD).exists():
        _add_tags(folder / CARD, tags)
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=push.get("commit_message") or "Upload with limelm",
        commit_description=push.get("commit_description"),
        revision=revision,
        create_pr=is_pull_request,
        allow_patterns=[*files, CARD],
        ignore_patterns=[CARD] if has_card else None,
    )


def file_stamps(folder: Path) -> dict[str, int]:
    """The times at which the files in a folder, and in the folders in it, were last written."""
    paths = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}


def written_since(folder: Path, before: dict[str, int]) -> list[str]:
    """The files that were written since, as patterns that match them alone."""
    return [glob.escape(name) for name, stamp in file_stamps(folder).items() if before.get(name) != stamp]


def _add_tags(path: Path, tags: list[str]) -> None:
    card = ModelCard.load(path)
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
    card.save(path)


def _listed(tags: str | list[str] | None) -> list[str]:
    return [tags] if isinstance(tags, str) else tags or []
