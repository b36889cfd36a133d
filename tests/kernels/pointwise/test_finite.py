"""Infinities and NaNs are found wherever they are, and nothing else is taken for one."""

import math

import numpy as np
import pytest

from bitnet.kernels.pointwise.finite import all_finite
from bitnet.kernels.pointwise.walk import TILE


def test_large_small_and_no_numbers_are_finite():
    assert all_finite(np.full(9, 3.4e38, np.float32), np.full(9, -3.4e38, np.float32), np.full(3, 1e-45, np.float32))
    assert all_finite(np.arange(3), np.zeros((0, 4), np.float32), 1.5, np.float64(1e308), np.zeros((4, 5), np.float32).T)
    assert all_finite()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("where", [0, TILE - 1, TILE, 2 * TILE + 6])
def test_one_that_is_not_is_found_anywhere(bad, dtype, where):
    arrays = [np.zeros((3, 4), np.float32), np.ones(2 * TILE + 7, dtype), np.zeros(1, np.float32)]
    assert all_finite(*arrays)
    arrays[1][where] = bad
    assert not all_finite(*arrays) and not all_finite(*reversed(arrays))
    frozen = arrays[1][::-1]
    frozen.flags.writeable = False
    assert not all_finite(frozen)


def test_numbers():
    assert not all_finite(math.inf) and not all_finite(1, 2.0, math.nan)
