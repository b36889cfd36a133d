"""Steps of optimizers, and what latent weights are subject to, against their formulas in float64."""

import numpy as np
import pytest

from bitnet.kernels.pointwise import update, walk

each_float = pytest.mark.parametrize("dtype", [np.float32, np.float64])
near = {np.float32: {"rtol": 2e-6, "atol": 1e-6}, np.float64: {"rtol": 1e-13, "atol": 1e-15}}


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@each_float
@pytest.mark.parametrize("size", [1, walk.TILE + 1])
@pytest.mark.parametrize("momentum, nesterov, decay", [(0, False, 0), (0.9, False, 0.01), (0.9, True, 0), (0.5, True, 0.1)])
def test_sgd(momentum, nesterov, decay, size, dtype):
    w, v = normal(size, dtype), np.zeros(size, dtype)
    expected, velocity = w.astype(np.float64), np.zeros(size)
    for step in range(3):
        grad = normal(size, dtype, step + 1)
        g = grad + decay * expected
        velocity = momentum * velocity + g
        expected = expected - 0.1 * (g + momentum * velocity if nesterov else velocity)
        update.sgd(w, grad, v, 0.1, momentum, nesterov, decay)
    np.testing.assert_allclose(w, expected, **near[dtype])
    np.testing.assert_allclose(v, velocity, **near[dtype])


@each_float
@pytest.mark.parametrize("size", [1, walk.TILE + 1])
@pytest.mark.parametrize("decay", [0, 0.01])
def test_adam(decay, size, dtype):
    w, m, v = normal(size, dtype), np.zeros(size, dtype), np.zeros(size, dtype)
    expected, mean, square = w.astype(np.float64), np.zeros(size), np.zeros(size)
    for step in range(1, 5):
        grad = normal(size, dtype, step)
        g = grad + decay * expected
        mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g * g
        expected = expected - 0.05 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-3)
        update.adam([(w, grad, m, v, 0.05, decay)], step, 0.9, 0.99, 1e-3)
    np.testing.assert_allclose(w, expected, **near[dtype])
    np.testing.assert_allclose(v, square, **near[dtype])


def test_adam_updates_arrays_of_all_sizes_and_types_at_once():
    sizes = [(1, np.float32), (0, np.float32), (walk.TILE + 3, np.float32), (7, np.float64), (2 * walk.TILE, np.float32)]
    many = [[normal(size, dtype, seed) for seed in range(4)] for size, dtype in sizes]
    for arrays in many:
        arrays[3] **= 2
    alone = [[array.copy() for array in arrays] for arrays in many]
    many[0][1].flags.writeable = False
    update.adam([(*arrays, 0.1 * i, 0.01 * i) for i, arrays in enumerate(many)], 3, 0.9, 0.99, 1e-3)
    for i, (arrays, one) in enumerate(zip(many, alone, strict=True)):
        update.adam([(*one, 0.1 * i, 0.01 * i)], 3, 0.9, 0.99, 1e-3)
        for found, expected in zip(arrays, one, strict=True):
            np.testing.assert_array_equal(found, expected)


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
