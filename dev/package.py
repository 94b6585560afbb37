"""`make package`: the source distribution and the wheel of what is committed, in dist/, checked by twine.

They are built from a copy of the files that git tracks, so that nothing else of the working tree gets into them, with
the setuptools of the environment, so that no network is needed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Links of a page to files beside it.
LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!https?:|#)([^)]+)\)")
#: `limelm demo` so small that it takes seconds.
SMALL_DEMO = shlex.split(
    "demo --models llama,dynamic --steps 2 --batch-size 2 --sequence-length 32 --vocab-size 300 "
    "--validation-fraction 0.002 --hidden-size 32 --intermediate-size 32 --num-hidden-layers 2 --num-attention-heads 2"
)


def git(root: Path, *arguments: str) -> str:
    """What a git command prints."""
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def copy_tracked(root: Path, folder: Path) -> None:
    """Copy the files that git tracks, as they are in the working tree."""
    for name in git(root, "ls-files", "-z").split("\0"):
        if name and (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)


def relink(text: str, address: Callable[[str, bool], str]) -> str:
    """Give a page's links to files of the repository other addresses.

    Args:
        address: of a link's target, and whether it is a picture.
    """
    return LINK.sub(lambda match: f"{match[1]}{match[2]}({address(match[3], bool(match[1]))})", text)


def link_to(repository: str, text: str, version: str) -> str:
    """Turn a page's links to files of the repository into addresses, as the index shows the page without them."""
    home = repository.rstrip("/")
    return relink(text, lambda target, is_picture: f"{home}/{'raw' if is_picture else 'blob'}/v{version}/{target}")


def build(root: Path, out: Path, *kinds: str) -> list[Path]:
    """Build the tracked files of a repository.

    Args:
        kinds: "--wheel" or "--sdist"; none: the source distribution, and the wheel from that.

    Returns:
        The files in `out`, the wheel first.
    """
    with TemporaryDirectory() as name:
        copy = Path(name)
        copy_tracked(root, copy)
        repository = project(copy)["urls"].get("Repository")
        if repository:
            readme = copy / "README.md"
            text = link_to(repository, readme.read_text(encoding="utf-8"), version_of(copy))
            readme.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(out), name]
        date = {"SOURCE_DATE_EPOCH": git(root, "log", "-1", "--format=%ct").strip()}
        subprocess.run(command, check=True, env={**os.environ, **date}, stdout=subprocess.DEVNULL)
    return sorted(out.iterdir(), key=lambda path: path.suffix != ".whl")


def project(root: Path) -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def version_of(root: Path) -> str:
    """The version of the package."""
    text = (root / "limelm" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{root / 'limelm' / '_version.py'}: no __version__")
    return found[1]


def try_installed(programs: Path) -> str | None:
    """Run the demo in small, in an empty folder and not upon a clone.

    Args:
        programs: the folder of an environment's programs, `limelm` among them.

    Returns:
        What to mend, or None.
    """
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with TemporaryDirectory() as folder:
        for arguments in (["--version"], SMALL_DEMO):
            if subprocess.run([programs / "limelm", *arguments], cwd=folder, env=alone).returncode:
                return f"mend limelm {shlex.join(arguments)}, which failed"
        has_report = (Path(folder) / "demo" / "report.html").exists()
        return None if has_report else "mend limelm demo, which wrote no demo/report.html"


def main() -> None:
    """Build both into dist/ and check them; with `try`, run what is installed instead."""
    if sys.argv[1:] == ["try"]:
        raise SystemExit(try_installed(Path(sys.executable).parent))
    if changed := git(ROOT, "status", "--porcelain", "--untracked-files=no"):
        raise SystemExit(f"make package: commit these first, or undo them:\n{changed}")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    files = build(ROOT, ROOT / "dist")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], check=True)
    for path in files:
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
