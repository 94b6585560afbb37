import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limelm.evaluation.seeds import (
    Curve,
    compare_losses,
    final_losses,
    first_reached,
    how_much_sooner,
    in_all_seeds,
    loss_at,
    losses_at_equal_budgets,
)


def curve(losses, flops_per_token=1.0):
    tokens = np.arange(1, len(losses) + 1) * 10.0
    return Curve(tokens, tokens * flops_per_token, np.array(losses, dtype=float))


def test_loss_at_a_budget_is_linear_between_measurements():
    own = curve([4, 3, 2])
    assert [loss_at(own, "tokens", budget) for budget in (10, 15, 30)] == [4, 3.5, 2]
    assert np.isnan(loss_at(own, "tokens", 9)) and np.isnan(loss_at(own, "tokens", 31))


def test_the_first_time_a_loss_is_reached():
    own = curve([4, 3, 3.5, 2])
    assert first_reached(own, "tokens", 3.25) == 17.5
    assert first_reached(own, "tokens", 2) == 40 and first_reached(own, "tokens", 5) == 10
    assert np.isnan(first_reached(own, "tokens", 1.9))


@given(st.lists(st.floats(0.1, 9), min_size=2, max_size=8, unique=True), st.floats(0, 1))
def test_what_is_reached_is_what_stands_there(losses, share):
    own = curve(sorted(losses, reverse=True))
    wanted = own.loss[-1] + share * (own.loss[0] - own.loss[-1])
    assert loss_at(own, "tokens", first_reached(own, "tokens", wanted)) == pytest.approx(wanted, abs=1e-6)


CURVES = {
    # twice as dear per token, and better
    "LLaMA": {seed: curve([6 + 0.1 * seed, 5, 4 + 0.1 * seed]) for seed in range(4)},
    "dear": {seed: curve([5 + 0.1 * seed, 4, 3 + 0.05 * seed], 2) for seed in range(4)},
    "dearest": {seed: curve([5, 4, 3], 4) for seed in range(4)},
    "same": {seed: curve([6, 5, 4.15 + 0.1 * (seed % 2)]) for seed in range(4)},
}


def test_budgets_are_the_largest_that_all_have_spent():
    rows = losses_at_equal_budgets(CURVES, "LLaMA")
    assert len(rows) == 4 * 2 * 4
    by_place = {(row["model"], row["axis"], row["seed"]): row for row in rows}
    assert by_place["dear", "tokens", 2]["loss"] == pytest.approx(3.1)
    assert by_place["dear", "tokens", 2]["difference"] == pytest.approx(-1.1)
    # LLaMA has spent 30 FLOPs, the dear model 20 and 40 at its first two measurements
    assert by_place["dear", "flops", 2]["budget"] == 30
    assert by_place["dear", "flops", 2]["loss"] == pytest.approx((5.2 + 4) / 2)
    assert np.isnan(by_place["dearest", "flops", 2]["loss"])  # at 30 FLOPs it had not been measured yet


def test_summary_by_hand():
    rows = compare_losses(losses_at_equal_budgets(CURVES, "LLaMA"), "LLaMA")
    by_place = {(row["model"], row["axis"]): row for row in rows}
    dear = by_place["dear", "tokens"]
    differences = np.array([-1, -1.05, -1.1, -1.15])
    assert dear["mean"] == pytest.approx(3.075) and dear["seeds"] == 4 and dear["lower_in"] == 4
    margin = 3.182446 * differences.std(ddof=1) / 2  # Student's t for 3 degrees of freedom
    assert (dear["difference"], dear["t_low"], dear["t_high"]) == pytest.approx(
        (-1.075, -1.075 - margin, -1.075 + margin), abs=1e-5
    )
    assert dear["t_low"] < dear["bootstrap_low"] <= dear["bootstrap_high"] < dear["t_high"]
    assert dear["verdict"] == "lower by 1.075 nats"
    assert by_place["same", "tokens"]["verdict"] == "not distinguishable"
    llama = by_place["LLaMA", "tokens"]
    assert llama["verdict"] is None and llama["standard_deviation"] == pytest.approx(np.std([4, 4.1, 4.2, 4.3], ddof=1))


def test_a_budget_before_the_first_measurement_has_no_verdict():
    rows = compare_losses(losses_at_equal_budgets(CURVES, "LLaMA"), "LLaMA")
    (row,) = (row for row in rows if (row["model"], row["axis"]) == ("dearest", "flops"))
    assert row["verdict"] == "not measured so early" and row["difference"] is None and row["seeds"] == 4


def test_last_losses_are_those_at_equal_tokens():
    last = final_losses(
        {model: {seed: own.loss[-1] for seed, own in by_seed.items()} for model, by_seed in CURVES.items()}, "LLaMA"
    )
    at_end = [row for row in losses_at_equal_budgets(CURVES, "LLaMA") if row["axis"] == "tokens"]
    assert compare_losses(last, "LLaMA") == compare_losses(at_end, "LLaMA")


def test_a_single_seed_has_a_difference_and_no_verdict():
    single = {model: {0: by_seed[0]} for model, by_seed in CURVES.items()}
    rows = compare_losses(losses_at_equal_budgets(single, "LLaMA"), "LLaMA")
    by_place = {(row["model"], row["axis"]): row for row in rows}
    dear = by_place["dear", "tokens"]
    assert (dear["mean"], dear["difference"], dear["lower_in"], dear["seeds"]) == (3, -1, 1, 1)
    nothing = ("standard_deviation", "t_low", "t_high", "bootstrap_low", "bootstrap_high", "verdict")
    assert all(by_place[model, "tokens"][key] is None for model in CURVES for key in nothing)
    assert by_place["LLaMA", "tokens"]["difference"] is None
    assert by_place["dearest", "flops"]["verdict"] == "not measured so early"
    sooner = {row["model"]: row for row in how_much_sooner(single, "LLaMA")}
    assert sooner["dear"]["share"] == pytest.approx(40 / 30) and sooner["dear"]["verdict"] is None


def test_models_that_not_all_seeds_have_are_left_out():
    places = [(1, "a"), (1, "b"), (2, "b"), (2, "c"), (1, "d"), (2, "d")]
    trainings = [{"seed": seed, "label": label} for seed, label in places]
    assert in_all_seeds({"seeds": [1, 2], "trainings": trainings}) == ["b", "d"]


def test_how_much_sooner():
    rows = {row["model"]: row for row in how_much_sooner(CURVES, "LLaMA")}
    # seed 0: LLaMA ends at 4.0, the dear model has 4.0 at 40 of LLaMA's 30 FLOPs
    shares = []
    for seed in range(4):
        end, dear = 4 + 0.1 * seed, CURVES["dear"][seed]
        start = dear.loss[0]
        shares.append((20 + 20 * (start - end) / (start - 4)) / 30)
    assert rows["dear"]["share"] == pytest.approx(np.mean(shares)) and rows["dear"]["reached"] == 4
    assert rows["same"]["reached"] == 2  # in seeds 2 and 3


def test_sooner_or_later_goes_by_the_interval():
    def curve(*losses):
        steps = np.arange(1.0, len(losses) + 1)
        return Curve(steps, steps, np.array(losses))

    llama = {seed: curve(3, 2, 1) for seed in range(3)}
    models = {
        "LLaMA": llama,
        "quick": {seed: curve(2, 1, 0.5 + seed / 10) for seed in range(3)},
        "slow": {seed: curve(3, 2, 1.5, 1 - seed / 10) for seed in range(3)},
        "either": {0: curve(2, 1, 0.5), 1: curve(3, 2, 1), 2: curve(3, 2, 1.5, 1)},
    }
    rows = {row["model"]: row["verdict"] for row in how_much_sooner(models, "LLaMA")}
    assert rows == {"quick": "sooner", "slow": "later", "either": "not distinguishable"}


def test_a_run_that_was_measured_once_says_nothing_of_sooner():
    once = Curve(*(np.array([value]) for value in (10.0, 10.0, 4.0)))
    assert how_much_sooner({"LLaMA": {0: once, 1: once}, "LIMe": {0: once, 1: once}}, "LLaMA") == []


def test_what_is_not_reached_in_every_seed_has_no_verdict_of_sooner():
    ends = {"LLaMA": (4.0, 4.0, 4.0), "better": (3.0, 3.1, 4.5)}
    curves = {model: {seed: curve([6, loss]) for seed, loss in enumerate(losses)} for model, losses in ends.items()}
    [row] = how_much_sooner(curves, "LLaMA")
    assert (row["reached"], row["seeds"], row["verdict"]) == (2, 3, "not reached in every seed")
    assert row["t_low"] <= row["share"] <= row["t_high"] and row["share"] < 1


def test_what_is_reached_in_no_seed_has_no_share():
    curves = {"LLaMA": {seed: curve([6, 4]) for seed in range(2)}, "worse": {seed: curve([6, 5]) for seed in range(2)}}
    [row] = how_much_sooner(curves, "LLaMA")
    nothing = dict.fromkeys(("share", "t_low", "t_high", "verdict"))
    assert row == {"model": "worse", "seeds": 2, "reached": 0, **nothing}
