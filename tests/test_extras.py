"""Optional packages are missed, or found too old, in one line."""

import pytest
import transformers.integrations.peft as integration

from limelm.errors import UserError
from limelm.extras import REQUIREMENTS, import_extra, import_peft, require_extra


def test_a_package_that_is_missing_is_named_with_both_ways_to_install_it():
    with pytest.raises(UserError, match=r"no_such_package is not installed.*limelm\[data\].*clone"):
        import_extra("no_such_package.module", "data")


def test_all_that_an_extra_brings_is_looked_for_at_once(monkeypatch):
    require_extra("lab", "train")
    monkeypatch.setitem(REQUIREMENTS, "lab", ("no-such-package", "torch>=2", "numpy>=999", "tqdm"))
    with pytest.raises(UserError, match=r"^train: no-such-package, numpy>=999 are not installed; .*limelm\[lab\]"):
        require_extra("lab", "train")
    with pytest.raises(ImportError):  # what other libraries expect of a package that cannot be imported
        require_extra("lab", "train")


def test_a_peft_that_transformers_refuses_is_named_with_both_versions(monkeypatch):
    peft = pytest.importorskip("peft")
    monkeypatch.setattr(integration, "MIN_PEFT_VERSION", "999.0")
    with pytest.raises(UserError, match=rf"peft {peft.__version__} is too old for transformers .* 999\.0 or later"):
        import_peft()
    monkeypatch.setattr(integration, "MIN_PEFT_VERSION", "0.1")
    assert import_peft() is peft
