import pytest

from tests.evaluation.benchmarks import write_benchmarks


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory):
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"), items=60)
