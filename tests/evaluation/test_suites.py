import statistics

import pytest

from limelm import HyperConnectionConfig, LimeConfig
from limelm.evaluation.suites import SUITES, expand, paper_kind

# The last columns of the paper's tables, which are the means of the others.
AVERAGES = {
    "paper": {"llama": 57.7, "hc": 57.6, "dynamic": 58.4, "static": 58.3},
    "paper-v2": {"llama": 48.20, "hc": 49.93, "kv": 51.74},
}
# What version 2 prints for the two tasks that ours replace.
REPLACED = {"llama": (45.94, 54.20), "hc": (51.68, 51.59), "kv": (55.64, 55.36)}


@pytest.mark.parametrize("name", SUITES)
def test_the_printed_values_have_the_printed_averages(name):
    for kind, average in AVERAGES[name].items():
        values = [task.printed[kind] for task in SUITES[name].tasks if task.printed]
        values += REPLACED[kind] if name == "paper-v2" else ()
        assert len(values) == 8
        assert statistics.mean(values) == pytest.approx(average, abs=0.0501 if name == "paper" else 0.006)


def test_suites_and_tasks_can_be_mixed_and_each_runs_once():
    tasks = expand(["paper", "paper", "arc_easy", "paper-v2"])
    named = [(task.name, task.shots) for task in tasks]
    assert len(named) == len(set(named)) == 8 + 1 + 8
    assert ("arc_easy", 1) in named and ("arc_easy", None) in named and ("arc_easy", 3) in named


def test_other_shots_than_the_paper_s_have_no_printed_value():
    assert all(task.shots == 0 and not task.printed for task in expand(["paper"], shots=0))
    assert expand(["paper"], shots=1) == expand(["paper"])
    assert expand(["copa"], shots=5)[0].shots == 5


def test_which_of_the_paper_s_models_a_checkpoint_is_like():
    for routing in ("static", "dynamic", "kv"):
        config = LimeConfig(routing=routing)
        assert paper_kind(config.model_type, config.routing) == routing
    assert paper_kind("lime", "none") == paper_kind("llama", None) == "llama"
    for connection, kind in (("hc", "hc"), ("mhc", None)):
        config = HyperConnectionConfig(connection=connection)
        assert paper_kind(config.model_type, None, config.connection) == kind
    assert paper_kind("gpt2", None) is None
