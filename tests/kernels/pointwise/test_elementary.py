"""exp, log and tanh, against NumPy's in longer floats."""

import numpy as np
import pytest

from bitnet.kernels.pointwise import elementary, walk

RANGES = {"exp": [(-100, 88), (-1, 1), (-1e-3, 1e-3)], "log": [(1e-30, 1), (0.5, 2), (1, 1e30)],
          "tanh": [(-10, 10), (-0.1, 0.1), (-1e-6, 1e-6)]}


@pytest.mark.parametrize("name", RANGES)
def test_float32_is_the_nearest_number(name):
    rng = np.random.default_rng(0)
    for low, high in RANGES[name]:
        x = rng.uniform(low, high, 3 * walk.TILE + 5).astype(np.float32)
        found, exact = getattr(elementary, name)(x), getattr(np, name)(x.astype(np.longdouble))
        assert found.dtype == np.float32 and np.array_equal(found, exact.astype(np.float32))


@pytest.mark.parametrize("name, units", [("exp", 2), ("log", 4), ("tanh", 80)])
def test_float64_is_near(name, units):
    rng = np.random.default_rng(0)
    for low, high in RANGES[name]:
        x = rng.uniform(low, high, (50, 1000))
        found, exact = getattr(elementary, name)(x), getattr(np, name)(x.astype(np.longdouble)).astype(np.float64)
        assert found.shape == x.shape and np.all(np.abs(found - exact) <= units * np.spacing(np.abs(exact)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RANGES)
def test_special_numbers(name, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1, 1, tiny, -tiny, np.finfo(dtype).max, 89, 710, -104, -800], dtype)
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(x.astype(np.longdouble)).astype(dtype)
    found = getattr(elementary, name)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-13 if dtype == np.float64 else 0, equal_nan=True)
    assert np.array_equal(np.signbit(found[:4]), np.signbit(expected[:4]))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3, 4)])
def test_shapes(shape):
    x = np.full(shape, 0.5, np.float32)
    assert elementary.exp(x).shape == shape
    assert elementary.tanh(np.full((4, 6), 0.5)[:, ::2]).shape == (4, 3)
