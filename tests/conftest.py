"""What all tests share: a cache folder that is not the user's, and a number of threads for one test."""

import pytest

from bitnet.kernels.machine import threads


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """No test reads or leaves anything in the user's cache of data and of kernel times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def thread_count():
    """thread_count(n) makes kernels run on n threads until the test ends."""
    before = threads.get_threads()
    yield threads.set_threads
    threads.set_threads(before)
