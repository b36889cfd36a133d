"""Updates of latent weights against their formulas."""

import numpy as np
import pytest

from bitnet.kernels.pointwise import update

each_float = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def ap2(x):
    return np.sign(x) * 2.0 ** np.rint(np.log2(np.abs(x)))


@each_float
def test_powers_of_two_change_at_the_square_root_of_two(dtype):
    carry, exponent = update.ap2_constants(dtype)
    below = dtype(np.sqrt(2))
    while float(below) ** 2 >= 2:
        below = np.nextafter(below, dtype(1))
    around = np.array([below, np.nextafter(below, dtype(2))], dtype)
    x = np.concatenate([around * dtype(2.0**e) for e in (-20, -1, 0, 7)])
    power = ((x.view(carry.dtype) + carry) & exponent).view(dtype)
    np.testing.assert_array_equal(power.reshape(-1, 2), [[2.0**e, 2.0 ** (e + 1)] for e in (-20, -1, 0, 7)])


@each_float
def test_clip(dtype):
    weight = np.random.default_rng(0).standard_normal((3, 7000)).astype(dtype)  # more than one block
    expected = np.clip(weight, -0.5, 0.5)
    update.clip(weight, 0.5)
    np.testing.assert_array_equal(weight, expected)


@each_float
@pytest.mark.parametrize("paper", [False, True])
def test_shift_adamax(dtype, paper):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 7000)).astype(dtype)  # more than one tile
    expected, m, v = w.astype(np.float64), 0, 0
    mean, largest = np.zeros_like(w), np.zeros_like(w)
    for step in range(1, 4):
        g = rng.standard_normal(w.shape).astype(dtype)
        rate = float(ap2(0.01 / (1 - 0.9**step)))
        update.shift_adamax(w, g, mean, largest, rate, 0.9, 0.99, 2.0**-27, 0.1, paper)
        total = g + 0.1 * expected
        m = 0.9 * m + 0.1 * total
        v = np.maximum(0.99 * v, np.abs(total))
        power = ap2(v) + 2.0**-27
        expected = expected - rate * m / power
        v = v if paper else power
    # a float32 sum may fall on the other side of sqrt(2): a factor of two in very few steps
    close = np.isclose(w, expected, rtol=1e-4, atol=1e-5)
    assert close.mean() > 0.9995 and (dtype == np.float32 or close.all())
