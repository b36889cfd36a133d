"""Kernels on a chosen number of threads."""

import pytest
from bitnet.kernels import threads


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: compiles kernels anew (deselect with -m 'not slow')")


@pytest.fixture
def thread_count():
    """thread_count(n) makes kernels run on n threads until the test ends."""
    before = threads.get_threads()
    yield threads.set_threads
    threads.set_threads(before)
