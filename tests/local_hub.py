"""A stand-in for the Hugging Face hub: repositories are folders, and nothing leaves the machine."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, RepoUrl, repocard
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects


class LocalHub:
    """What was asked of the hub, and a folder of repositories with what was pushed to them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.created: list[dict[str, Any]] = []
        self.commits: list[dict[str, Any]] = []
        self.branches: list[str] = []

    def repository(self, name: str) -> Path:
        return self.folder / name

    def create_repo(self, repo_id: str, **options: Any) -> RepoUrl:
        self.created.append({"repo_id": repo_id, **options})
        full = repo_id if "/" in repo_id else f"me/{repo_id}"
        self.repository(full).mkdir(parents=True, exist_ok=True)
        return RepoUrl(f"https://huggingface.co/{full}")

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: Any, ignore_patterns: Any, **options: Any
    ) -> SimpleNamespace:
        there = [path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()]
        names = filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        return self.create_commit(
            repo_id, [CommitOperationAdd(name, folder_path / name) for name in sorted(names)], **options
        )

    def create_commit(self, repo_id: str, operations: Any, **options: Any) -> SimpleNamespace:
        for operation in operations:
            target = self.repository(repo_id) / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(operation.path_or_fileobj, target)
        names = [operation.path_in_repo for operation in operations]
        self.commits.append({"repo_id": repo_id, "files": names, **options})
        return SimpleNamespace(oid="0" * 40, commit_url="", pr_url=None)

    def file_exists(self, repo_id: str, filename: str, **options: Any) -> bool:
        return (self.repository(repo_id) / filename).is_file()

    def download(self, repo_id: str, filename: str, **options: Any) -> str:
        path = self.repository(repo_id) / filename
        if not path.is_file():
            raise LocalEntryNotFoundError(f"{path}: not there")
        return str(path)

    def snapshot(self, repo_id: str, **options: Any) -> str:
        return str(self.repository(repo_id))

    def create_branch(self, repo_id: str, *, branch: str, **options: Any) -> None:
        self.branches.append(branch)


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """Let every push of this process go into a folder."""
    hub = LocalHub(folder)
    for name in ("create_repo", "upload_folder", "create_commit", "file_exists", "create_branch"):
        asked = getattr(hub, name)
        monkeypatch.setattr(HfApi, name, lambda self, *args, _asked=asked, **options: _asked(*args, **options))
    monkeypatch.setattr(repocard, "hf_hub_download", hub.download)
    return hub
