"""Models and adapters go to the hub with their cards, and come back in a process that knows nothing of limelm."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, RepoCard
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import limelm
from limelm import adapters
from limelm.adapters import files as adapter_files
from tests.commands import parse
from tests.families import family_model, tokens, train_routers
from tests.local_hub import stand_in
from tests.models.variants import VARIANTS, tiny_model, token_ids

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
SPACE = ROOT / "examples" / "space"
MODEL_FILES = {"README.md", "config.json", "generation_config.json", "model.safetensors", "modeling_limelm.py"}
LOAD = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
assert "limelm" not in sys.modules
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps([type(model).__module__, model(torch.tensor(json.loads(sys.argv[2]))).logits.flatten().tolist()]))
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    return stand_in(tmp_path / "hub", monkeypatch)


def loaded_elsewhere(folder: Path, ids: torch.Tensor) -> tuple[str, torch.Tensor]:
    """The module of the model's class, and its logits, in a process that has not imported limelm."""
    command = [sys.executable, "-c", LOAD, str(folder), json.dumps(ids.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    module, logits = json.loads(done.stdout.splitlines()[-1])
    return module, torch.tensor(logits)


def test_a_pushed_model_is_loaded_where_nobody_imported_limelm(hub):
    model = tiny_model("dynamic").eval()
    model.push_to_hub("me/lime", private=True, commit_message="first", tags=["mine"])
    repository = hub.repository("me/lime")
    assert {path.name for path in repository.iterdir()} == MODEL_FILES
    assert hub.created == [{"repo_id": "me/lime", "private": True, "exist_ok": True}]
    assert hub.commits[0]["commit_message"] == "first"
    module, logits = loaded_elsewhere(repository, token_ids())
    assert module == "limelm.models.lime.modeling_lime"
    torch.testing.assert_close(logits, model(token_ids()).logits.flatten())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_card_goes_along(variant, hub):
    tiny_model(variant).push_to_hub("name")
    card = ModelCard.load(hub.repository("me/name") / "README.md")
    assert card.data.library_name == "transformers" and card.data.tags[0] == "limelm"
    assert "Made with limelm" in card.text and "automatically generated" not in card.text


def test_tags_of_the_model_and_of_the_push_are_added_to_the_card(hub):
    model = tiny_model("static")
    model.add_model_tags(["kept"])
    model.push_to_hub("name", tags="mine")
    assert ModelCard.load(hub.repository("me/name") / "README.md").data.tags == [
        "limelm",
        "lime",
        "static",
        "kept",
        "mine",
    ]


def test_a_card_that_the_hub_has_stays(hub, tmp_path):
    model = tiny_model("static")
    model.push_to_hub("name")
    card = hub.repository("me/name") / "README.md"
    card.write_text("mine")
    model.push_to_hub("name", tags=["other"])
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="me/name")
    assert card.read_text() == "mine" and "README.md" not in hub.commits[-1]["files"]


def test_saving_pushes_what_was_saved_and_the_card_of_the_folder(hub, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "README.md").write_text("filled in")
    (folder / "notes.txt").write_text("private")
    tiny_model("static").save_pretrained(folder, push_to_hub=True, revision="next", create_pr=True)
    assert hub.commits[0]["repo_id"] == "me/saved" and set(hub.commits[0]["files"]) == MODEL_FILES
    assert (hub.commits[0]["revision"], hub.commits[0]["create_pr"], hub.branches) == ("next", True, ["next"])
    assert (hub.repository("me/saved") / "README.md").read_text() == "filled in" == (folder / "README.md").read_text()


def test_an_unknown_option_of_a_push_is_refused(hub):
    with pytest.raises(TypeError, match="push_to_hub: privat=True is unknown"):
        tiny_model("static").push_to_hub("name", privat=True)
    assert not hub.created


@pytest.fixture
def adapter(hub, tmp_path, monkeypatch):
    """A model with trained routers, pushed as me/routers; the hub answers for it."""
    family_model("llama").save_pretrained(tmp_path / "base")
    model = train_routers(limelm.attach(limelm.load_model(tmp_path / "base"), "kv"))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "token.txt").write_text("secret")
    limelm.save_adapter(model, tmp_path / "saved", push_to_hub=True, repo_id="me/routers", private=True)
    monkeypatch.setattr(adapter_files, "hf_hub_download", hub.download)
    monkeypatch.setattr(adapter_files, "snapshot_download", hub.snapshot)
    return model


def test_a_pushed_adapter_is_loaded_by_its_name(adapter, hub):
    assert hub.commits[0]["files"] == ["README.md", "lime_adapter.json", "lime_adapter.safetensors"]
    assert hub.created == [{"repo_id": "me/routers", "private": True, "exist_ok": True}]
    logits = adapter(tokens()).logits
    assert torch.equal(limelm.load_adapter(family_model("llama"), "me/routers")(tokens()).logits, logits)
    assert torch.equal(limelm.load_model("me/routers")(tokens()).logits, logits)


def test_options_of_a_push_are_refused_without_one(adapter, tmp_path):
    with pytest.raises(TypeError, match="save_adapter: repo_id='me/x' is only for push_to_hub=True"):
        adapters.save_adapter(adapter, tmp_path / "other", repo_id="me/x")
    with pytest.raises(TypeError, match="save_adapter: repo='me/x' is unknown"):
        adapters.save_adapter(adapter, tmp_path / "other", push_to_hub=True, repo="me/x")
    assert not (tmp_path / "other").exists()


@pytest.fixture
def at_the_hub(tmp_path, monkeypatch):
    """The working folder is the hub, so that what was pushed is read under its name; what the page reads is there."""
    monkeypatch.chdir(tmp_path)
    tiny_model("static").save_pretrained("my-lime")
    words = Tokenizer(WordLevel({"<unk>": 0, "w": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained("my-lime")
    family_model("llama").save_pretrained("OWNER/BASE")
    return stand_in(tmp_path, monkeypatch)


def test_the_python_of_the_page_and_of_the_hubs_snippet_runs(at_the_hub):
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/hub.md", "exec"), names)
    pushed = {path.name for path in Path("OWNER/NAME").iterdir()}
    assert pushed >= MODEL_FILES | {"tokenizer.json", "tokenizer_config.json"}
    card = ModelCard.load("OWNER/NAME/README.md")
    assert card.data.tags == ["limelm", "lime", "static"] and "Layer-Integrated Memory" in card.text
    (snippet,) = re.findall(r"\[\n\t`(import.*?)`,\n\]", PAGE, re.DOTALL)
    for name in ("OWNER/NAME", "OWNER/ROUTERS"):
        run: dict = {}
        exec(compile(snippet.replace("${model.id}", name), "snippet", "exec"), run)
        assert run["model"].get_input_embeddings() is not None
    assert hasattr(run["model"].model.layers[1].self_attn, "router")


def test_the_entry_of_the_hubs_list_has_what_its_interface_asks_for():
    (entry,) = re.findall(r"```ts\nlimelm: \{\n(.*?)\n\},", PAGE, re.DOTALL)
    keys = re.findall(r"^\t(\w+):", entry, re.MULTILINE)
    assert keys == ["prettyLabel", "repoName", "repoUrl", "docsUrl", "snippets", "filter", "countDownloads"]
    assert f'path:"{adapters.files.DESCRIPTION}"' in entry and "http" not in entry


@pytest.mark.parametrize(("host", "name"), [("me-space.hf.space", "me-space.hf.space"), ("", "localhost")])
def test_a_space_runs_a_command_that_is_taken(host, name):
    dockerfile = (SPACE / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^CMD exec (limelm .*)$", dockerfile, re.MULTILINE)
    variables = dict(re.findall(r'^ENV ([A-Z]+)="(.*)"$', dockerfile, re.MULTILINE))
    shell = 'limelm() { printf "%s\\0" "$@"; }; ' + command
    done = subprocess.run(["sh", "-c", shell], env=variables | {"SPACE_HOST": host}, capture_output=True, check=True)
    options = parse(done.stdout.decode().split("\0")[:-1])
    assert (options.checkpoints, options.text) == ([variables["CHECKPOINT"]], variables["TEXT"])
    assert (options.serve, options.host, options.port, options.name) == (True, "0.0.0.0", 7860, name)


def test_the_first_lines_of_a_space_say_how_it_runs():
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    front = RepoCard(text).data.to_dict()
    assert (front["sdk"], front["app_port"]) == ("docker", 7860)
    assert len(front["short_description"]) <= 60
    dockerfile = (SPACE / "Dockerfile").read_text(encoding="utf-8")
    assert "EXPOSE 7860" in dockerfile and front["models"] == ["OWNER/MODEL"] and "OWNER/MODEL" in dockerfile
    for page in (text, dockerfile, PAGE):
        assert "REPOSITORY" in page
