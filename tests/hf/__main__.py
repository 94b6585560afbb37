"""Run transformers' common tests on every model, and fail where Llama passes and one of ours does not.

python -m tests.hf [pytest's options]
"""

import sys
from collections import Counter, defaultdict

import pytest
import transformers

from tests.hf.harness import fetch

#: Tests that Llama passes and that do not concern our models, with the reason: all of them are skipped by the tests
#: themselves.
INTENDED_SKIPS = {
    "test_tp_plan_matches_params": "there is no tensor-parallel plan: routing needs all heads (docs/serving.md)",
    "test_tied_head_has_a_tp_plan_entry": "as above",
}
FEWEST_PASSED = 80  # by Llama; fewer, and the tests themselves have changed


class Outcomes:
    """What became of each test, by model: a test with a failed part has failed."""

    def __init__(self):
        self.by_model: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report):
        _, model, test = report.nodeid.split("::")
        outcomes = self.by_model[model.removeprefix("Test")]
        if report.failed:
            outcomes[test] = "failed"
        elif report.skipped:
            outcomes.setdefault(test, "skipped")
        elif report.when == "call":
            outcomes.setdefault(test, "passed")


def differences(llama: dict[str, str], ours: dict[str, str]) -> list[str]:
    """The tests that Llama passes and ours do not, but for those whose skip is intended."""
    return [
        f"{test}: {ours.get(test, 'not run')}"
        for test, outcome in sorted(llama.items())
        if outcome == "passed"
        and ours.get(test) != "passed"
        and not (ours.get(test) == "skipped" and test in INTENDED_SKIPS)
    ]


def main() -> int:
    fetch()
    outcomes = Outcomes()
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "--tb=short", "-r", "N", *sys.argv[1:]]
    pytest.main(["tests/hf/common.py", *options], plugins=[outcomes])
    by_model = outcomes.by_model
    llama = by_model.pop("Llama", {})
    print(f"transformers {transformers.__version__}: its common tests")
    is_good = True
    for model, results in {"Llama": llama, **by_model}.items():
        counts = Counter(results.values())
        print(f"  {model:26}{counts['passed']:4} passed, {counts['failed']} failed, {counts['skipped']} skipped")
        for difference in differences(llama, results) if model != "Llama" else ():
            is_good = False
            print(f"    {difference} (Llama passes)")
    if Counter(llama.values())["passed"] < FEWEST_PASSED or len(by_model) < 7:
        print(f"too little was run: Llama must pass {FEWEST_PASSED} tests, and seven models stand beside it")
        is_good = False
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
