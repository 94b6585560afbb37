"""`python -m dev.release`: what is done for a release, what is left to do, and the commands that remain to a person.

It ends with 1 where something is left. `--quick` leaves out what takes more than seconds, and calls no release ready.
"""

import argparse
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from dev.package import ROOT, git, project, try_installed, version_of

#: A check of a tree: None where it is done, else what to do.
Check = Callable[[Path], str | None]


def newest_heading(root: Path) -> tuple[str, str]:
    """The version and the words in parentheses of the newest heading in CHANGELOG.md."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## (\S+)(?: \((.*)\))?$", text, re.MULTILINE)
    return (found[1], found[2] or "") if found else ("", "")


def clean_tree(root: Path) -> str | None:
    """Nothing is changed, and nothing lies about that git neither tracks nor ignores."""
    changed = git(root, "status", "--porcelain").splitlines()
    return f"commit or remove {', '.join(line[3:] for line in changed[:5])}" if changed else None


def changelog(root: Path) -> str | None:
    """The newest heading is of this version, with a date."""
    version, (named, when) = version_of(root), newest_heading(root)
    if named != version:
        return f"CHANGELOG.md begins with {named or 'no version'}, limelm/_version.py says {version}: make them one"
    if _is_date(when):
        return None
    return f'write "## {version} ({date.today()})" in CHANGELOG.md, where "({when})" stands'


def tag(root: Path) -> str | None:
    """There is no tag of this version yet, or it is of this commit."""
    name = f"v{version_of(root)}"
    if not git(root, "tag", "--list", name).strip():
        return None
    if git(root, "rev-parse", f"{name}^{{commit}}") == git(root, "rev-parse", "HEAD"):
        return None
    return f"{name} is another commit: raise limelm/_version.py, or check that commit out"


def citation(root: Path) -> str | None:
    """CITATION.cff has the version, its date and the repository."""
    stands = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    when = newest_heading(root)[1]
    wanted = {"version": version_of(root), "date-released": when if _is_date(when) else str(date.today())}
    if repository := project(root)["urls"].get("Repository"):
        wanted["repository-code"] = repository
    wrong = {name: value for name, value in wanted.items() if str(stands.get(name)) != value}
    return f"write {', '.join(f'{name}: {value}' for name, value in wrong.items())} in CITATION.cff" if wrong else None


def urls(root: Path) -> str | None:
    """The project's repository and documentation have addresses."""
    stand = project(root).get("urls", {})
    missing = [name for name in ("Repository", "Documentation") if not stand.get(name, "").startswith("https://")]
    return f"write {' and '.join(missing)} under [project.urls] in pyproject.toml" if missing else None


def tests(root: Path) -> str | None:
    """Style, types, tests and pages pass at this commit."""
    return _make(root, "lint", "test", "docs")


def package(root: Path) -> str | None:
    """The distributions are built and twine takes them."""
    return _make(root, "package")


def wheel(root: Path) -> str | None:
    """The wheel can be installed into an empty environment, where the demo runs in small."""
    wheels = sorted((root / "dist").glob(f"limelm-{version_of(root)}-*.whl"))
    if len(wheels) != 1:
        return f"dist/ has {len(wheels)} wheels of {version_of(root)}: make package"
    with TemporaryDirectory() as name:
        venv.create(name, with_pip=True)
        programs = Path(name) / "bin"
        install = [programs / "python", "-m", "pip", "install", "--quiet", f"{wheels[0].resolve()}[lab]"]
        if subprocess.run(install).returncode:
            return "mend what pip says above"
        return try_installed(programs)


QUICK: dict[str, Check] = {
    "clean tree": clean_tree,
    "version and CHANGELOG.md": changelog,
    "tag": tag,
    "CITATION.cff": citation,
    "addresses": urls,
}
SLOW: dict[str, Check] = {
    "make lint test docs": tests,
    "make package": package,
    "the wheel in an empty environment": wheel,
}


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _make(root: Path, *targets: str) -> str | None:
    failed = subprocess.run(["make", *targets], cwd=root).returncode
    return f"mend what make {' '.join(targets)} says above" if failed else None


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Print every item, done or what to do; gives 0 where nothing is left."""
    parser = argparse.ArgumentParser(prog="python -m dev.release", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="skip tests, package and wheel: seconds, not an hour")
    quick = parser.parse_args(arguments).quick
    lines = []
    for name, check in (QUICK | SLOW).items():
        to_do = "left out by --quick" if quick and name in SLOW else check(root)
        lines.append(f"  to do  {name}: {to_do}" if to_do else f"  done   {name}")
    print("\n".join(lines), flush=True)
    if any(line.startswith("  to do") for line in lines):
        return 1
    name = f"v{version_of(root)}"
    print("\nWhat remains, whereupon .github/workflows/publish.yml publishes it:\n")
    if not git(root, "tag", "--list", name).strip():
        print(f"  git tag --annotate {name} --message 'limelm {name[1:]}'")
    print(f"  git push origin {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
