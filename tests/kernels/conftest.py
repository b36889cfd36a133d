"""Noise as arrays."""

import numba
import numpy as np
import pytest

from bitnet.kernels.machine import noise


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: compiles kernels anew (deselect with -m 'not slow')")


@numba.njit
def _fill(key0, key1, out):
    for i in range(out.size):
        out[i] = noise.uniform(key0, key1, i)


@pytest.fixture(scope="session")
def draw():
    """draw(key, count) -> the first ``count`` numbers of the draw with this key, float32."""

    def draw(key, count):
        out = np.empty(count, np.float32)
        _fill(*key, out)
        return out

    return draw
