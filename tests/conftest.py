"""What all tests share: a cache folder that is not the user's."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """No test reads or leaves anything in the user's cache of data and of kernel times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
