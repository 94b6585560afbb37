import pytest

from limelm.data.dataset import load_prepared_tokenizer
from limelm.data.presets import PRESETS, prepare_preset
from limelm.data.shards import Manifest
from limelm.errors import UserError
from tests.recipes import prepared


def test_the_python_library_needs_nothing_else(tmp_path):
    manifest = prepare_preset("python-library", tmp_path / "out", vocab_size=300, max_documents=5)
    assert manifest == Manifest.load(tmp_path / "out")
    assert manifest.source == "the Python standard library" and manifest.vocab_size == 300
    assert sum(split.documents for split in manifest.splits.values()) <= 5


def test_changes_replace_a_presets_fields(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(f'{{"body": "document {n}"}}\n' for n in range(20)))
    tokenizer = prepared(tmp_path / "tokens") / "tokenizer"
    changes = {"dataset": str(tmp_path / "set"), "dataset_config": None, "text_field": "body"}
    manifest = prepare_preset(
        "fineweb-edu", tmp_path / "out", vocab_size=99, tokenizer=str(tokenizer), validation_fraction=0.3, **changes
    )
    assert manifest.vocab_size == len(load_prepared_tokenizer(tmp_path / "tokens")) == 300
    assert manifest.splits["validation"].documents > 1
    assert PRESETS["fineweb-edu"].text_field == "text"


def test_an_unknown_preset_is_named(tmp_path):
    with pytest.raises(UserError, match="preset 'pile' is unknown; allowed: python-library, fineweb-edu"):
        prepare_preset("pile", tmp_path / "out")
