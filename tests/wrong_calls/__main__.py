"""`python -m tests.wrong_calls`: make all wrong calls and print a table; exit code 1 if one does not end as it must."""

import os

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", TRITON_INTERPRET="1")

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.wrong_calls import all_cases, make_fixtures
from tests.wrong_calls.harness import TIME_LIMIT, import_once, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.wrong_calls", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this text in their subject or call")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th case")
    parser.add_argument("--fixtures", type=Path, help="folder of the fixtures, made where it is missing")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT, metavar="S", help="seconds of one call")
    parser.add_argument("--lines", action="store_true", help="show the line of each case")
    options = parser.parse_args()
    cases = [case for case in all_cases() if options.only in f"{case.subject} {case}"][:: options.every]
    tried, failed = Counter(case.subject for case in cases), Counter()
    with tempfile.TemporaryDirectory() as folder:
        fixtures = (options.fixtures or Path(folder) / "fixtures").absolute()
        make_fixtures(fixtures)
        import_once()
        for case in cases:
            outcome = run(case, fixtures, Path(folder) / "work", options.time_limit)
            if outcome.faults or options.lines:
                print(f"{'FAIL' if outcome.faults else 'ok'}  {case.subject}: {case}")
                print(f"      {outcome.line}")
            if outcome.faults:
                failed[case.subject] += 1
                print(f"      {'; '.join(outcome.faults)}", flush=True)
    print(f"{'subject':<16}{'calls':>8}{'failed':>8}")
    for subject, calls in tried.items():
        print(f"{subject:<16}{calls:>8}{failed[subject]:>8}")
    print(f"{'all':<16}{len(cases):>8}{failed.total():>8}")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
