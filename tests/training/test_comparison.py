import json
import shutil
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from limelm.errors import UserError
from limelm.recipes.files import override
from limelm.training import read_summary, reproduce, train_model
from tests.recipes import corpus, prepared, small_recipe

IDENTITY = {"model_type": "lime", "routing": "kv", "routing_init": "identity"}
SUMMARY_KEYS = {
    "name",
    "parameters",
    "flops_per_token_forward",
    "train_tokens",
    "final_train_loss",
    "eval_loss",
    "eval_perplexity",
    "seconds",
    "peak_memory_bytes",
    "checkpoint",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and what it was made with."""
    folder = tmp_path_factory.mktemp("reproduce")
    recipe, data = small_recipe(folder), prepared(folder / "tokens")
    assert reproduce(recipe, folder / "run", data=data) == ["seed-1/llama", "seed-1/dynamic"]
    return recipe, data, folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run that a test may change."""
    recipe, data, folder = finished
    shutil.copytree(folder, tmp_path / "run")
    return recipe, data, tmp_path / "run"


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_summary_says_what_was_done(finished):
    _, _, folder = finished
    content = summary(folder)
    assert content["name"] == "small" and content["seeds"] == [1]
    assert content["data"]["train_tokens"] > 1000
    assert {"torch", "transformers", "limelm", "device"} <= content["environment"].keys()
    assert [entry["name"] for entry in content["trainings"]] == ["llama", "dynamic"]
    for entry in content["trainings"]:
        assert entry.keys() >= SUMMARY_KEYS
        assert all(entry[key] > 0 for key in SUMMARY_KEYS - {"name", "checkpoint"})
        checkpoint = folder / entry["checkpoint"]
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        assert model.num_parameters() == entry["parameters"]
        assert AutoTokenizer.from_pretrained(checkpoint)("memory").input_ids[0] == model.config.bos_token_id


def test_a_second_run_trains_nothing(run):
    recipe, data, folder = run
    before = (folder / "seed-1" / "llama" / "model.safetensors").stat().st_mtime_ns
    assert reproduce(recipe, folder, data=data) == []
    assert (folder / "seed-1" / "llama" / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_goes_on_with_what_is_missing(run):
    recipe, data, folder = run
    first = summary(folder)
    (folder / "seed-1" / "dynamic" / "result.json").unlink()  # as a kill leaves it
    shutil.rmtree(folder / "seed-1" / "dynamic" / "checkpoints" / "checkpoint-4")
    (folder / "summary.json").unlink()
    assert reproduce(recipe, folder, data=data) == ["seed-1/dynamic"]
    again = summary(folder)
    for before, after in zip(first["trainings"], again["trainings"], strict=True):
        assert before["eval_loss"] == after["eval_loss"]
    assert sorted(path.name for path in (folder / "seed-1").iterdir()) == ["dynamic", "llama"]


def test_models_can_be_added(run):
    recipe, data, folder = run
    assert reproduce(recipe, folder, models=["kv"], data=data) == ["seed-1/kv"]
    assert [entry["name"] for entry in summary(folder)["trainings"]] == ["llama", "dynamic", "kv"]


def test_another_recipe_or_other_data_is_refused_by_name(run, tmp_path):
    recipe, data, folder = run
    before = (folder / "summary.json").read_bytes()
    with pytest.raises(UserError, match=r"holds a run with recipe\.training\.steps=4, not 5"):
        reproduce(recipe.with_training(steps=5), folder, data=data)
    with pytest.raises(UserError, match="holds a run with data_sha256="):
        reproduce(recipe, folder, data=prepared(tmp_path / "other", corpus(31)))
    assert (folder / "summary.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[1]", '"text"', "{}", '{"run": 5, "name": ["x"]}'])
@pytest.mark.parametrize("name", ["run.json", "seed-1/dynamic/result.json"])
def test_broken_files_of_a_run_are_named(run, name, content):
    recipe, data, folder = run
    (folder / name).write_text(content)
    remedy = "name a new folder" if name == "run.json" else r"remove .* to train this model again"
    with pytest.raises(UserError, match=f"{name}: .*; {remedy}"):
        reproduce(recipe, folder, data=data)


def test_bad_input_is_refused_before_any_work(tmp_path):
    recipe, data = small_recipe(tmp_path), prepared(tmp_path / "tokens")
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    before = sorted(tmp_path.rglob("*"))
    broken = small_recipe(tmp_path, ('routing = "dynamic"', 'routing = "psychic"'))
    for arguments, message in (
        ({"recipe": recipe, "out": tmp_path / "run", "models": ["mamba"], "data": data}, "unknown model"),
        ({"recipe": broken, "out": tmp_path / "run", "data": data}, "routing='psychic'"),
        ({"recipe": recipe, "out": tmp_path / "run", "data": tmp_path / "full"}, "not a folder made by"),
        ({"recipe": recipe, "out": tmp_path / "file", "data": data}, "not a folder"),
        ({"recipe": recipe, "out": tmp_path / "file" / "run", "data": data}, "Not a directory"),
        ({"recipe": recipe, "out": tmp_path / "full", "data": data}, r"already holds other files \(thesis.tex\)"),
    ):
        with pytest.raises(UserError, match=message):
            reproduce(**arguments)
        assert sorted(tmp_path.rglob("*")) == before


def test_too_short_data_is_refused_before_training(tmp_path):
    longer = [(f"{key} = 32", f"{key} = 9999") for key in ("sequence_length", "max_position_embeddings")]
    recipe = small_recipe(tmp_path, *longer)
    data = prepared(tmp_path / "tokens")
    with pytest.raises(UserError, match="fewer than one sequence of 9999"):
        reproduce(recipe, tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_fewer_sequences_than_a_batch_are_refused(tmp_path):
    recipe = small_recipe(tmp_path, ("batch_size = 2", "batch_size = 500"))
    with pytest.raises(UserError, match="sequences, fewer than one batch of 500"):
        reproduce(recipe, tmp_path / "run", data=prepared(tmp_path / "tokens"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("hidden_size = 32", "hidden_size = 6"), "head_dim=3 is odd"),
        (("intermediate_size = 64", "intermediate_size = -1"), "intermediate_size=-1 must be at least 1"),
        (("hidden_size = 32", 'hidden_size = 32\nhidden_act = "foo"'), "hidden_act='foo' is unknown"),
        (("hidden_size = 32", "hidden_size = 32\nbos_token_id = 1"), "bos_token_id comes from the tokenizer"),
        (("max_position_embeddings = 32", "max_position_embeddings = 31"), "max_position_embeddings=31 is less than"),
    ],
)
def test_models_that_do_not_work_are_refused_before_any_work(tmp_path, change, message):
    data = prepared(tmp_path / "tokens")
    with pytest.raises(UserError, match=message):
        reproduce(small_recipe(tmp_path, change), tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_a_run_killed_while_it_prepared_data_can_go_on(tmp_path, monkeypatch):
    recipe = small_recipe(tmp_path)
    out = tmp_path / "run"

    def die(*arguments, **options):
        (out / ".data.partial").mkdir()
        raise SystemExit  # as far as the folder is concerned, a kill

    def prepare_anew(name, folder, **options):
        assert name == "python-library"
        (out / ".data.partial").rmdir()
        prepared(folder)

    with monkeypatch.context() as patch:
        patch.setattr("limelm.recipes.data.prepare_preset", die)
        with pytest.raises(SystemExit):
            reproduce(recipe, out)
    with pytest.raises(UserError, match=r"holds a run with recipe\.training\.seed=1, not 2"):
        reproduce(recipe.with_training(seed=2), out)
    monkeypatch.setattr("limelm.recipes.data.prepare_preset", prepare_anew)
    assert reproduce(recipe, out) == ["seed-1/llama", "seed-1/dynamic"]
    assert sorted(path.name for path in out.iterdir()) == ["data", "run.json", "seed-1", "summary.json"]
    with pytest.raises(UserError, match="holds a run with data='python-library', not 'a prepared folder"):
        reproduce(recipe, out, data=out / "data")


def test_data_that_another_run_has_prepared_are_the_recipes_own(finished, tmp_path, monkeypatch):
    recipe, data, _ = finished
    reproduce(recipe, tmp_path / "run", ["llama"], data, is_own_data=True)
    made = []
    monkeypatch.setattr("limelm.recipes.data.prepare_preset", lambda name, folder, **_: made.append(prepared(folder)))
    assert reproduce(recipe, tmp_path / "run", ["llama"]) == [] and len(made) == 1


def test_own_data_that_were_prepared_otherwise_are_refused(finished, tmp_path):
    recipe, data, _ = finished
    own = tmp_path / "own" / "data"
    shutil.copytree(data, own)
    settings = json.loads((own / "preparation.json").read_text())
    settings["source"] = "the Python standard library"
    (own / "preparation.json").write_text(json.dumps(settings))
    recipe.data.prepare(own)
    for field, value in {"vocab_size": 301, "validation_fraction": 0.3, "preset": "fineweb-edu"}.items():
        with pytest.raises(UserError, match=r"already there, prepared with .*; name a new folder"):
            train_model(override(recipe, {field: value}), "llama", None, tmp_path / "own")


def test_a_run_goes_on_with_a_recipe_that_has_more_models(run):
    recipe, data, folder = run
    more = replace(recipe, name="renamed", models={**recipe.models, "identity": IDENTITY})
    assert reproduce(more, folder, models=["identity"], data=data) == ["seed-1/identity"]
    assert [entry["label"] for entry in summary(folder)["trainings"]] == ["LLaMA", "LIMe dynamic", "identity"]
    changed = replace(more, models={**more.models, "identity": {**IDENTITY, "routing_init": "paper"}})
    with pytest.raises(UserError, match=r"holds a run with recipe\.models\.identity\.routing_init='identity'"):
        reproduce(changed, folder, data=data)


def test_a_field_that_the_recipe_no_longer_has_is_noticed(run):
    recipe, data, folder = run
    before = {**recipe.architecture, "rms_norm_eps": 0.1}
    content = json.loads((folder / "run.json").read_text())
    content["run"]["recipe"]["architecture"] = before
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"holds a run with recipe\.architecture\.rms_norm_eps=0\.1, not None"):
        reproduce(recipe, folder, data=data)


def test_a_complete_run_is_left_as_it_is(run):
    recipe, data, folder = run
    before = (folder / "summary.json").stat().st_mtime_ns
    assert reproduce(recipe, folder, data=data) == []
    assert (folder / "summary.json").stat().st_mtime_ns == before


def test_the_engine_may_change(run):
    recipe, data, folder = run
    other = replace(recipe, engine=replace(recipe.engine, save_steps=1, micro_batch_size=1))
    assert reproduce(other, folder, models=["kv"], data=data) == ["seed-1/kv"]


def test_a_damaged_shard_is_refused_before_training(tmp_path):
    data = prepared(tmp_path / "tokens")
    shard = data / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\0\0")
    with pytest.raises(UserError, match="its hash is not the manifest's"):
        reproduce(small_recipe(tmp_path), tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_tracker_that_is_missing_is_noticed_before_anything_is_written(tmp_path, seeds):
    recipe, out = replace(small_recipe(tmp_path), seeds=seeds), tmp_path / "run"
    with pytest.raises(UserError, match="--report-to no_such_tracker: not installed"):
        reproduce(recipe, out, report_to=["no_such_tracker"])
    assert not out.exists()


def test_seeds_that_do_not_exist_are_noticed_before_the_first_is_trained(tmp_path):
    recipe = small_recipe(tmp_path, ("seed = 1", f"seed = {2**32 - 1}"))
    with pytest.raises(UserError, match=r"seeds=2 from training\.seed=4294967295 upwards: the last must be less than"):
        replace(recipe, seeds=2)


@pytest.mark.parametrize("seeds", [0, 1001, "two", 1.5])
def test_the_number_of_seeds_is_checked(tmp_path, seeds):
    with pytest.raises(UserError, match=r"seeds=.* must be"):
        override(small_recipe(tmp_path), {"seeds": str(seeds)})


def old_run(folder):
    """A run of one seed as version 1 left it."""
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({"run": content["run"]}))
    (folder / "seed-1").rename(folder / "models")


def old_seeds(folder):
    """A run of several seeds as version 1 left it."""
    (folder / "run.json").unlink()
    (folder / "summary.json").unlink()


def one_training(folder):
    """What `limelm train` leaves."""
    shutil.copytree(folder / "seed-1" / "llama", folder, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (old_run, r"run\.json: belongs to one training, or a run of an earlier version; name a new folder"),
        (old_seeds, r"run: already holds other files \(seed-1\); name a new folder"),
        (one_training, r"run\.json: belongs to one training, or a run of an earlier version; name a new folder"),
    ],
)
def test_other_and_older_folders_are_refused_and_left_alone(run, before, message):
    recipe, data, folder = run
    before(folder)
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError, match=message):
        reproduce(recipe, folder, data=data)
    assert files == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_training_does_not_go_on_in_a_run_of_several(run):
    recipe, data, folder = run
    with pytest.raises(UserError, match=r"run\.json: belongs to a run of several trainings; name a new folder"):
        train_model(recipe, "llama", data, folder)


def test_a_result_of_another_run_is_not_counted(run, tmp_path):
    """A training that was copied from elsewhere has to be of the same recipe and data, and of its folder's seed."""
    recipe, data, folder = run
    before = (folder / "summary.json").read_bytes()
    shutil.copytree(folder / "seed-1", folder / "seed-7")
    with pytest.raises(UserError, match=r"seed-7/llama: holds a run with training\.seed=1, not 7"):
        reproduce(recipe, folder, data=data)
    assert (folder / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["trainings"].append(content["trainings"][0]), "seeds and trainings do not belong"),
        (lambda content: content["seeds"].append(2), "seeds and trainings do not belong"),
        (lambda content: content.update(trainings=[]), "one training or more"),
        (lambda content: content.update(models=content.pop("trainings")), "made by an earlier version"),
        (lambda content: content.pop("seeds"), "no value for seeds"),
    ],
)
def test_a_summary_is_read_strictly(run, change, message):
    _, _, folder = run
    content = summary(folder)
    change(content)
    (folder / "summary.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"summary\.json: .*{message}"):
        read_summary(folder)


def test_a_training_of_another_model_is_refused_before_its_data_are_prepared(run):
    recipe, _, folder = run
    one = folder / "seed-1" / "llama"
    before = sorted(path.name for path in one.iterdir())
    with pytest.raises(UserError, match="holds a run with architecture"):
        train_model(recipe, "static", None, one)
    assert sorted(path.name for path in one.iterdir()) == before
