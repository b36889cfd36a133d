"""Numbers to codes and back, against their formulas in NumPy."""

import numpy as np
import pytest

from bitnet.kernels.machine.noise import key_of
from bitnet.kernels.pointwise import quantize, walk

each_float = pytest.mark.parametrize("dtype", [np.float32, np.float64])
SIZES = [1, walk.TILE - 1, walk.TILE, walk.TILE + 1, 3 * walk.TILE + 77]


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@each_float
@pytest.mark.parametrize("size", SIZES)
def test_encode_sign(size, dtype):
    w = normal(size, dtype)
    w[::7] = 0
    w[::14] = -0.0
    codes, mean = quantize.encode_sign(w)
    np.testing.assert_array_equal(codes, (w >= 0).astype(np.uint8), strict=True)
    assert mean == pytest.approx(np.abs(w).mean(dtype=np.float64), rel=1e-14)


@each_float
@pytest.mark.parametrize("bits", [1, 2, 8])  # 8: codes above 127, whose highest bit is no sign
@pytest.mark.parametrize("size", SIZES)
def test_sums_and_numbers_by_code(size, bits, dtype):
    codes = np.random.default_rng(size).integers(0, 1 << bits, size).astype(np.uint8)
    x, table = normal(size, dtype), normal(1 << bits, dtype)
    sums, counts = quantize.sums_by_code(x, codes, bits)
    np.testing.assert_array_equal(counts, np.bincount(codes, minlength=1 << bits), strict=True)
    np.testing.assert_allclose(sums, np.bincount(codes, x.astype(np.float64), 1 << bits), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(quantize.look_up(table, codes), table[codes], strict=True)


@each_float
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_encode_symmetric(size, bits, dtype):
    t, half = np.tanh(normal(size, dtype)), dtype(0.5)
    largest = np.abs(t).max()
    expected = np.rint((2**bits - 1) * (t / largest * half + half)).astype(np.uint8)
    np.testing.assert_array_equal(quantize.encode_symmetric(t, largest, bits), expected, strict=True)


@each_float
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_nearest_gradient(bits, dtype):
    g, n = normal((4, 77), dtype), 2**bits - 1
    g[1] = 0
    largest = np.abs(g).max(axis=1)
    level = np.where(largest > 0, g.T / np.where(largest > 0, largest, 1), 0).T * (n / 2) + n / 2
    expected = np.floor(level + 0.5)
    clear = np.abs(level % 1 - 0.5) > 1e-4
    codes = quantize.nearest_gradient(g, largest, bits)
    np.testing.assert_array_equal(codes[clear], expected[clear])
    assert (codes[1] == (n + 1) // 2).all()  # 0 is a half, and goes up
    assert (codes[0][g[0] == largest[0]] == n).all() and (codes[0][g[0] == -largest[0]] == 0).all()


@each_float
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_encode_activation(bits, dtype):
    n = 2**bits - 1
    x = np.concatenate([normal(3 * walk.TILE + 5), [0, -0.0, 1, -1e-30, 1e-30, 2, -3, np.inf, -np.inf],
                        np.nextafter([0, 1], [-1, 2]), (np.arange(n) + 0.5) / n]).astype(dtype)
    codes, mask = quantize.encode_activation(x, bits)
    np.testing.assert_array_equal(codes, np.rint(dtype(n) * np.clip(x, 0, 1)).astype(np.uint8), strict=True)
    np.testing.assert_array_equal(mask, ((x >= 0) & (x <= 1)).astype(np.uint8), strict=True)


@each_float
@pytest.mark.parametrize("size", SIZES)
def test_windows_and_clips(size, dtype):
    x, g = normal(size, dtype), normal(size, dtype, 1)
    mask = (x > 0.3).astype(np.uint8)
    np.testing.assert_array_equal(quantize.apply_mask(g, mask), np.where(x > 0.3, g, dtype(0)), strict=True)
    np.testing.assert_array_equal(quantize.clip(x, -0.5, 0.25), np.clip(x, dtype(-0.5), dtype(0.25)), strict=True)
    inside = (x >= -0.5) & (x <= 0.25)
    np.testing.assert_array_equal(quantize.clip_grad(g, x, -0.5, 0.25), np.where(inside, g, dtype(0)), strict=True)


@each_float
def test_the_bounds_of_a_clip_belong_to_it(dtype):
    x = np.array([-0.5, 0.25, *np.nextafter(np.array([-0.5, 0.25], dtype), np.array([-1, 1], dtype))], dtype)
    assert quantize.clip_grad(np.ones(4, dtype), x, -0.5, 0.25).tolist() == [1, 1, 0, 0]


@each_float
def test_a_gradient_outside_the_window_is_dropped_even_where_it_is_infinite(dtype):
    g = np.array([np.inf, np.nan, -np.inf, 3], dtype)
    mask = np.array([0, 0, 0, 1], np.uint8)
    assert quantize.apply_mask(g, mask).tolist() == [0, 0, 0, 3]
    assert quantize.clip_grad(g, np.array([2, -1, 2, 0.5], dtype), 0, 1).tolist() == [0, 0, 0, 3]


@each_float
def test_max_magnitude(dtype):
    g = normal((6, 7, 5, 3), dtype)
    np.testing.assert_array_equal(quantize.max_magnitude(g), np.abs(g).max(axis=(1, 2, 3)), strict=True)
    g = np.array([[0, -0.0], [-3, 2], [np.inf, 1], [np.finfo(dtype).tiny / 4, 0]], dtype)
    assert quantize.max_magnitude(g).tolist() == [0, 3, np.inf, np.finfo(dtype).tiny / 4]


@each_float
def test_max_magnitude_keeps_nan(dtype):
    assert np.isnan(quantize.max_magnitude(np.array([[1, np.nan, np.inf], [-np.nan, 2, 0]], dtype))).all()


@each_float
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_encode_gradient(bits, dtype, draw):
    n, key = dtype(2**bits - 1), key_of(7, 11)
    g = normal((5, 40, 30), dtype)
    g[1] = 0
    g[2] *= dtype(1e-30)
    g[3, ::2] = g[3].max() * np.sign(g[3, ::2])  # much of the sample at its extremes
    g[4] *= dtype(np.finfo(dtype).smallest_subnormal)  # so small that n / 2 / max is infinite
    largest = np.abs(g).max(axis=(1, 2))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = n / 2 / largest
        factor = np.where(factor * largest >= n / 2, factor, np.nextafter(factor, dtype(np.inf)))
    factor = np.minimum(factor, np.finfo(dtype).max)[:, None, None]
    sigma = draw(key, g.size).reshape(g.shape).astype(dtype)
    expected = np.rint(np.clip(g * factor + n / 2 + sigma, 0, n)).astype(np.uint8)
    found = quantize.encode_gradient(g, largest, bits, key)
    np.testing.assert_array_equal(found, expected, strict=True)
    assert found.max() <= n


@pytest.mark.parametrize("drop", [0, 0.25, 0.5, 0.9])
def test_keep_mask(drop, draw):
    key, size = key_of(1, 2), 2 * walk.TILE + 100
    mask = quantize.keep_mask((2, size // 2), drop, key)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask.ravel(), draw(key, size) >= np.float32(drop - 0.5))
    assert abs(mask.mean() - (1 - drop)) <= 5 * np.sqrt(drop * (1 - drop) / size)
