"""Max pooling and its gradient, against windows in NumPy."""

import numpy as np
import pytest

from bitnet.kernels.pointwise import pool

each_float = pytest.mark.parametrize("dtype", [np.float32, np.float64])
POOLS = [(2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 3, 1), (1, 1, 0), (5, 5, 2), (3, 2, ((0, 1), (1, 0))), (2, 2, ((1, 0), (0, 1)))]


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def windows_of(x, size, stride, pad):
    """(N, OH, OW, C, size * size), minus infinity where there is padding."""
    padded = np.pad(x.astype(np.float64), ((0, 0), *pool.sides(pad), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return windows.reshape(*windows.shape[:4], -1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("size, stride, pad", POOLS)
def test_max_pool(size, stride, pad, dtype):
    x = np.random.default_rng(0).integers(0 if dtype == np.uint8 else -4, 4, (2, 7, 9, 5)).astype(dtype)  # many ties
    windows = windows_of(x, size, stride, pad)
    out, taps = pool.max_pool(x, size, stride, pad)
    np.testing.assert_array_equal(out, windows.max(axis=-1).astype(dtype), strict=True)
    np.testing.assert_array_equal(taps, windows.argmax(axis=-1).astype(np.uint8), strict=True)


@each_float
@pytest.mark.parametrize("size, stride, pad", POOLS)
def test_max_pool_grad(size, stride, pad, dtype):
    x = normal((2, 7, 9, 5), dtype)
    out, taps = pool.max_pool(x, size, stride, pad)
    g = normal(out.shape, dtype, 1)
    (top, bottom), (left, right) = pool.sides(pad)
    expected = np.zeros((2, 7 + top + bottom, 9 + left + right, 5), dtype)
    n, oy, ox, c = np.indices(taps.shape)
    np.add.at(expected, (n, oy * stride + taps // size, ox * stride + taps % size, c), g)
    np.testing.assert_array_equal(pool.max_pool_grad(g, taps, x.shape, size, stride, pad),
                                  expected[:, top:top + 7, left:left + 9], strict=True)
