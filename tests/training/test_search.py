"""A search for each model's learning rate: what is trained, what is chosen, and what is kept of it."""

import json
import shutil
from dataclasses import asdict, replace

import pytest

from limelm.cli import main
from limelm.errors import UserError
from limelm.planning.plan import Hardware, make_plan
from limelm.planning.table import plan_table
from limelm.recipes.files import override
from limelm.training import load_recipe, read_summary, reproduce, train_model
from limelm.training.places import Divergence, Place, best_learning_rates, missing_trainings
from tests.recipes import prepared, small_recipe, write_recipe
from tests.training.moments import Moments
from tests.training.test_result import GOOD

pytestmark = pytest.mark.usefixtures("figures_stay_undrawn")

RATES = (1e-3, 4e-2)
TOO_HIGH = 1e30
MODELS = ["llama", "static"]


def searching(*rates: float, seeds: int = 2) -> tuple[str, str]:
    """The change of the small recipe that makes it search."""
    return '"dynamic"]', f'"static"]\nseeds = {seeds}\nlearning_rates = {list(rates)}'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    recipe, data = small_recipe(folder, searching(*RATES)), prepared(folder / "tokens")
    trained = reproduce(recipe, folder / "run", data=data)
    return recipe, folder, trained


def folder_of(rate: float, seed: int, name: str) -> str:
    return f"learning-rate-{rate}/seed-{seed}/{name}"


def losses_in(out) -> dict[str, dict[float, float]]:
    """The held-out loss of the first seed by model and rate, from the files alone."""
    return {
        name: {
            rate: json.loads((out / folder_of(rate, 1, name) / "result.json").read_text())["eval_loss"]
            for rate in RATES
        }
        for name in MODELS
    }


def keep_small_files(out) -> None:
    """Remove what nobody keeps between two machines: weights, tokenizers, checkpoints, and the run's own pages."""
    kept = {"run.json", "result.json", "metrics.jsonl", "routers.jsonl"}
    for path in [*out.rglob("*")]:
        if path.is_file() and (path.name not in kept):
            path.unlink()
    for checkpoints in out.rglob("checkpoints"):
        shutil.rmtree(checkpoints)


def test_each_rate_with_the_first_seed_and_the_others_at_the_best(run):
    _, folder, trained = run
    best = {name: min(losses, key=losses.get) for name, losses in losses_in(folder / "run").items()}
    assert trained == [
        *(folder_of(rate, 1, name) for name in MODELS for rate in RATES),
        *(folder_of(best[name], 2, name) for name in MODELS),
    ]
    summary = read_summary(folder / "run")
    assert [(each["seed"], each["name"], each["learning_rate"]) for each in summary["trainings"]] == [
        (seed, name, best[name]) for seed in (1, 2) for name in MODELS
    ]
    assert [row["is_best"] for row in summary["search"]] == [rate == best[name] for name in MODELS for rate in RATES]
    losses = [loss for by_rate in losses_in(folder / "run").values() for loss in by_rate.values()]
    assert [row["eval_loss"] for row in summary["search"]] == losses and len({*losses}) == len(losses)


def test_a_searched_training_is_an_ordinary_one_and_routers_keep_their_ratio(run, tmp_path):
    recipe, folder, _ = run
    rate = RATES[1]
    alone = replace(recipe, seeds=1, learning_rates=()).with_training(
        learning_rate=rate, router_learning_rate=10 * rate
    )
    train_model(alone, "static", folder / "tokens", tmp_path / "static")
    ours = folder / "run" / folder_of(rate, 1, "static")
    assert (ours / "model.safetensors").read_bytes() == (tmp_path / "static" / "model.safetensors").read_bytes()
    rates = json.loads((ours / "metrics.jsonl").read_text().splitlines()[2])["learning_rate"]
    assert rates["matrices"] == rate and rates["router"] == pytest.approx(10 * rate)  # after the warm-up


def test_small_files_are_enough_to_go_on_and_to_report(copied, tmp_path, capsys):
    recipe, out, data = copied
    keep_small_files(out)
    assert reproduce(recipe, out, data=data) == []
    arguments = ["reproduce", str(write_recipe(tmp_path, searching(*RATES))), "--data", str(data), "--out", str(out)]
    assert main(arguments) == 0
    page = (out / "report.html").read_text()
    assert "what LIMe static retrieves (its weights are not kept)" in page
    assert (out / "figures" / "search.csv").exists() and (out / "figures" / "router_entropy.csv").exists()
    lost = out / folder_of(RATES[0], 1, "llama") / "result.json"
    lost.unlink()
    (lost.parent / "metrics.jsonl").unlink()
    assert reproduce(recipe, out, data=data) == [folder_of(RATES[0], 1, "llama")]


def test_the_choice_waits_for_the_whole_search(copied):
    recipe, out, data = copied
    best = read_summary(out)["trainings"][0]["learning_rate"]
    shutil.rmtree(out / folder_of(best, 2, "llama"))
    shutil.rmtree(out / folder_of(RATES[0], 1, "llama"))
    assert reproduce(recipe, out, ["static"], data) == []
    summary = read_summary(out)
    assert {each["name"] for each in summary["trainings"]} == {"static"}
    assert [row["is_best"] for row in summary["search"] if row["name"] == "llama"] == [False]
    assert reproduce(recipe, out, data=data) == [folder_of(RATES[0], 1, "llama"), folder_of(best, 2, "llama")]


def test_killed_before_any_result_it_ends_the_same(run, tmp_path):
    recipe, folder, _ = run
    with Moments(tmp_path / "run", tmp_path / "moments", {"result.json"}) as moments:
        reproduce(recipe, tmp_path / "run", ["llama"], folder / "tokens")
    assert len(moments.copies) == 3
    whole = read_summary(tmp_path / "run")
    for _, copy in moments.copies[1:]:  # within the search, and after it
        reproduce(recipe, copy, ["llama"], folder / "tokens")
        again = read_summary(copy)
        assert again["search"] == whole["search"] and again["seeds"] == whole["seeds"] == [1, 2]
        assert [each["eval_loss"] for each in again["trainings"]] == [each["eval_loss"] for each in whole["trainings"]]


def test_rates_can_be_added(copied):
    recipe, out, data = copied
    more = replace(recipe, learning_rates=(1e-6, *RATES))
    assert reproduce(more, out, data=data) == [folder_of(1e-6, 1, name) for name in MODELS]
    with pytest.raises(UserError, match=r"holds a run with recipe\.learning_rates="):
        reproduce(replace(recipe, learning_rates=()), out, data=data)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diverged")
    data = prepared(folder / "tokens")
    recipe = small_recipe(folder, searching(RATES[0], TOO_HIGH, seeds=1))
    return folder, data, recipe, reproduce(recipe, folder / "run", ["static"], data)


def test_a_divergence_is_a_result(diverged):
    folder, data, recipe, trained = diverged
    assert trained == [folder_of(rate, 1, "static") for rate in (RATES[0], TOO_HIGH)]
    assert reproduce(recipe, folder / "run", ["static"], data) == []
    found, lost = read_summary(folder / "run")["search"]
    assert found["is_best"] and found["diverged_at"] is None
    assert (lost["learning_rate"], lost["eval_loss"], lost["is_best"]) == (TOO_HIGH, None, False)
    metrics = (folder / "run" / folder_of(TOO_HIGH, 1, "static") / "metrics.jsonl").read_text().splitlines()
    assert lost["diverged_at"] == len(metrics) and "NaN" in metrics[-1]


def test_the_page_says_what_diverged_and_what_is_best_at_an_end(diverged, capsys):
    folder, data, _, _ = diverged
    recipe = str(write_recipe(folder, searching(RATES[0], TOO_HIGH, seeds=1)))
    run = ["--data", str(data), "--out", str(folder / "run"), "--models", "static"]
    assert main(["reproduce", recipe, *run]) == 0
    assert "learning rate" in capsys.readouterr().out
    page = (folder / "run" / "report.html").read_text()
    assert "Diverged, with a loss or gradient that is not finite any more: LIMe static at 1e+30 (seed 1, step" in page
    assert "LIMe static (0.001, the lowest)" in page


def test_a_run_in_which_all_diverged_says_so(tmp_path):
    recipe = small_recipe(tmp_path, searching(TOO_HIGH, 10 * TOO_HIGH))
    with pytest.raises(UserError, match="every training diverged; name lower learning_rates"):
        reproduce(recipe, tmp_path / "run", ["llama"], prepared(tmp_path / "tokens"))


def test_the_best_is_the_lower_of_equal_rates_and_never_one_that_diverged(tmp_path):
    recipe = small_recipe(tmp_path, searching(1e-3, 2e-3, 4e-3))
    at = {rate: replace(GOOD, eval_loss=loss) for rate, loss in ((1e-3, 2.0), (2e-3, 1.0), (4e-3, 1.0))}
    outcomes = {Place(1, "llama", rate): result for rate, result in at.items()}
    assert best_learning_rates(recipe, outcomes) == {"llama": 2e-3}
    outcomes[Place(1, "llama", 2e-3)] = Divergence(3, "loss")
    assert best_learning_rates(recipe, outcomes) == {"llama": 4e-3}
    assert missing_trainings(recipe, ["llama"], outcomes) == [Place(2, "llama", 4e-3)]
    outcomes[Place(2, "llama", 4e-3)] = Divergence(1, "grad_norm")
    assert missing_trainings(recipe, ["llama"], outcomes) == []


@pytest.mark.parametrize("rates", [(1e-3,), (2e-3, 1e-3), (1e-3, 1e-3), (0.0, 1e-3)])
def test_rates_are_two_or_more_in_order(tmp_path, rates):
    with pytest.raises(UserError, match="learning_rates"):
        small_recipe(tmp_path, searching(*rates))


def test_where_rates_can_be_named(tmp_path):
    recipe = small_recipe(tmp_path)
    assert override(recipe, {"learning_rates": "[1e-3, 2e-3]"}).learning_rates == (1e-3, 2e-3)
    with pytest.raises(UserError, match="one training has one learning rate; name it with --learning-rate"):
        override(recipe, {"learning_rates": "[1e-3, 2e-3]"}, "llama")
    with pytest.raises(UserError, match="for models from scratch"):
        load_recipe("attach", {"learning_rates": "[1e-3, 2e-3]"})


def test_the_plan_counts_the_trainings_of_a_model(tmp_path):
    heads = [
        plan_table(make_plan(small_recipe(tmp_path, *change), "llama", Hardware(gpus=1))).splitlines()[2]
        for change in ([searching(*RATES, 3e-1, seeds=3)], [('"dynamic"]', '"dynamic"]\nseeds = 3')], [])
    ]
    assert heads[0] == (
        "one training; limelm reproduce takes 5 of this model "
        "(3 learning rates with the first seed, the other seeds at the best)"
    )
    assert heads[1:] == ["one training; limelm reproduce takes 3 of this model", ""]


def test_no_search_leaves_no_trace(tmp_path):
    recipe = small_recipe(tmp_path)
    assert recipe.of_training(7) == replace(recipe, training=replace(recipe.training, seed=7))
    assert {*asdict(recipe.of_training(7, 2e-3).training).items()} ^ {*asdict(recipe.training).items()} == {
        *(("seed", 1), ("seed", 7)),
        *(("learning_rate", 1e-3), ("learning_rate", 2e-3)),
        *(("router_learning_rate", 1e-2), ("router_learning_rate", 2e-2)),
    }
