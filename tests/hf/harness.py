"""transformers' common model tests: they are in its source distribution only, in no wheel.

`fetch` takes that of the installed version from the package index and lays its tests out as a package, once. What they
import from files that the distribution leaves out is put beside them, as far as it is needed.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

CACHE = Path(".hf-tests")
PACKAGE = "transformers_tests"

# Tests of generation and export are not in the distribution: these are their names, without tests.
MISSING = {
    "__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": (
        'config_common_kwargs = {"return_dict": False, "output_hidden_states": True, "dtype": "float16", '
        '"chunk_size_feed_forward": 5, "architectures": ["BertModel"], "id2label": {0: "label"}, '
        '"label2id": {"label": 0}, "problem_type": "regression"}\n'
    ),
}


def fetch() -> Path:
    """The folder to import `transformers_tests` from; the package index is asked for it only the first time."""
    version = transformers.__version__
    folder = CACHE / version
    if not (folder / PACKAGE).is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            _download(version, Path(made))
            (archive,) = Path(made).glob("transformers-*.tar.gz")
            with tarfile.open(archive) as contents:
                contents.extractall(made, filter="data")
            tests = Path(made) / f"transformers-{version}" / "tests"
            for name, text in MISSING.items():
                path = tests / name
                if path.exists():
                    raise RuntimeError(f"{name} is in the source distribution of transformers {version}: use it")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            folder.mkdir(exist_ok=True)
            shutil.move(tests, folder / PACKAGE)
    return folder.resolve()


def _download(version: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
    subprocess.run([*pip, "--dest", str(folder), f"transformers=={version}"], check=True)
