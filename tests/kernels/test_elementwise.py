"""Every walk over memory against its formula in NumPy."""

import numpy as np
import pytest

from bitnet.kernels.machine.noise import key_of
from bitnet.kernels.pointwise import norm, pool, quantize, update, walk

each_float = pytest.mark.parametrize("dtype", [np.float32, np.float64])
SIZES = [1, walk.BLOCK - 1, walk.BLOCK, walk.BLOCK + 1, 3 * walk.BLOCK + 77]


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_same(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@each_float
@pytest.mark.parametrize("size", SIZES)
def test_encode_sign(size, dtype):
    w = normal(size, dtype)
    w[::7] = 0
    w[::14] = -0.0
    codes, mean = quantize.encode_sign(w)
    assert_same(codes, (w >= 0).astype(np.uint8))
    assert mean == pytest.approx(np.abs(w).mean(dtype=np.float64), rel=1e-14)


@each_float
@pytest.mark.parametrize("bits", [1, 2, 8])  # 8: codes above 127, whose highest bit is no sign
@pytest.mark.parametrize("size", SIZES)
def test_sums_and_numbers_by_code(size, bits, dtype):
    codes = np.random.default_rng(size).integers(0, 1 << bits, size).astype(np.uint8)
    x, table = normal(size, dtype), normal(1 << bits, dtype)
    sums, counts = quantize.sums_by_code(x, codes, bits)
    assert_same(counts, np.bincount(codes, minlength=1 << bits))
    np.testing.assert_allclose(sums, np.bincount(codes, x.astype(np.float64), 1 << bits), rtol=1e-12, atol=1e-12)
    assert_same(quantize.look_up(table, codes), table[codes])


@each_float
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_encode_symmetric(size, bits, dtype):
    t, half = quantize.tanh(normal(size, dtype)), dtype(0.5)
    assert_same(t, np.tanh(normal(size, dtype)))
    largest = np.abs(t).max()
    assert_same(quantize.encode_symmetric(t, largest, bits), np.rint((2**bits - 1) * (t / largest * half + half)).astype(np.uint8))


@each_float
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_encode_activation(bits, dtype):
    n = 2**bits - 1
    x = np.concatenate([normal(3 * walk.BLOCK + 5), [0, -0.0, 1, -1e-30, 1e-30, 2, -3, np.inf, -np.inf],
                        np.nextafter([0, 1], [-1, 2]), (np.arange(n) + 0.5) / n]).astype(dtype)
    codes, window = quantize.encode_activation(x, bits)
    assert_same(codes, np.rint(dtype(n) * np.clip(x, 0, 1)).astype(np.uint8))
    assert_same(window, ((x >= 0) & (x <= 1)).astype(np.uint8))


@each_float
@pytest.mark.parametrize("size", SIZES)
def test_windows_and_clips(size, dtype):
    x, g = normal(size, dtype), normal(size, dtype, 1)
    window = (x > 0.3).astype(np.uint8)
    assert_same(quantize.apply_window(g, window), np.where(x > 0.3, g, dtype(0)))
    assert_same(quantize.clip(x, -0.5, 0.25), np.clip(x, dtype(-0.5), dtype(0.25)))
    assert_same(quantize.clip_grad(g, x, -0.5, 0.25), np.where((x >= -0.5) & (x <= 0.25), g, dtype(0)))


@each_float
def test_the_bounds_of_a_clip_belong_to_it(dtype):
    x = np.array([-0.5, 0.25, *np.nextafter(np.array([-0.5, 0.25], dtype), np.array([-1, 1], dtype))], dtype)
    assert quantize.clip_grad(np.ones(4, dtype), x, -0.5, 0.25).tolist() == [1, 1, 0, 0]


@each_float
def test_a_gradient_outside_the_window_is_dropped_even_where_it_is_infinite(dtype):
    g = np.array([np.inf, np.nan, -np.inf, 3], dtype)
    window = np.array([0, 0, 0, 1], np.uint8)
    assert quantize.apply_window(g, window).tolist() == [0, 0, 0, 3]
    assert quantize.clip_grad(g, np.array([2, -1, 2, 0.5], dtype), 0, 1).tolist() == [0, 0, 0, 3]


@each_float
def test_max_magnitude(dtype):
    g = normal((6, 7, 5, 3), dtype)
    assert_same(quantize.max_magnitude(g), np.abs(g).max(axis=(1, 2, 3)))
    assert quantize.max_magnitude(np.array([[0, -0.0], [-3, 2], [np.inf, 1], [np.finfo(dtype).tiny / 4, 0]], dtype)).tolist() == [
        0, 3, np.inf, np.finfo(dtype).tiny / 4]


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
    assert_same(found, expected)
    assert found.max() <= n


@pytest.mark.parametrize("drop", [0, 0.25, 0.5, 0.9])
def test_keep_mask(drop, draw):
    key, size = key_of(1, 2), 2 * walk.BLOCK + 100
    mask = quantize.keep_mask((2, size // 2), drop, key)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask.ravel(), draw(key, size) >= np.float32(drop - 0.5))
    assert abs(mask.mean() - (1 - drop)) <= 5 * np.sqrt(drop * (1 - drop) / size)


IMAGES = [(1, 1, 1), (1, walk.ROWS + 3, 1), (9, 7, 5), (3, 40, 41), (2, 1, 2 * walk.SEGMENT + 1), (4, 70)]  # (N, H, W) or (N, W)


@each_float
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("channels", [1, 3, 6, 12, 64, walk.SEGMENT + 1])
def test_channels(channels, image, dtype):
    a, b = normal((*image, channels), dtype), normal((*image, channels), dtype, 1)
    p, q, r = normal((3, channels), np.float64, 2)
    wide, axes = a.astype(np.float64), tuple(range(len(image)))
    for found, expected in zip(norm.channel_sums(a, b), (wide, wide * b), strict=True):
        np.testing.assert_allclose(found, expected.sum(axis=axes), rtol=1e-11, atol=1e-10)
    p, q, r = (one.astype(dtype) for one in (p, q, r))
    assert_same(norm.channel_affine(a, p, q), a * p + q)
    assert_same(norm.channel_blend(a, b, p, q, r), a * p + b * q + r)


def test_channels_of_a_matrix():
    a = normal((2 * walk.ROWS + 1, 10))
    np.testing.assert_allclose(norm.channel_sums(a, a), [a.sum(axis=0, dtype=np.float64), (a.astype(np.float64)**2).sum(axis=0)],
                               rtol=1e-12)


def test_channel_sums_are_taken_in_float64():
    a = np.full((100_000, 1), 0.1, np.float32)  # in float32 the sum drifts in the fourth digit
    assert norm.channel_sums(a, a)[0, 0] == pytest.approx(100_000 * float(np.float32(0.1)), rel=1e-12)


POOLS = [(2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 3, 1), (1, 1, 0), (5, 5, 2)]


def windows_of(x, size, stride, pad):
    """(N, OH, OW, C, size * size), minus infinity where there is padding."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return windows.reshape(*windows.shape[:4], -1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("size, stride, pad", POOLS)
def test_max_pool(size, stride, pad, dtype):
    x = np.random.default_rng(0).integers(0 if dtype == np.uint8 else -4, 4, (2, 7, 9, 5)).astype(dtype)  # many ties
    windows = windows_of(x, size, stride, pad)
    out, taps = pool.max_pool(x, size, stride, pad)
    assert_same(out, windows.max(axis=-1).astype(dtype))
    assert_same(taps, windows.argmax(axis=-1).astype(np.uint8))


@each_float
@pytest.mark.parametrize("size, stride, pad", POOLS)
def test_max_pool_grad(size, stride, pad, dtype):
    x = normal((2, 7, 9, 5), dtype)
    out, taps = pool.max_pool(x, size, stride, pad)
    g = normal(out.shape, dtype, 1)
    expected = np.zeros((2, 7 + 2 * pad, 9 + 2 * pad, 5), dtype)
    n, oy, ox, c = np.indices(taps.shape)
    np.add.at(expected, (n, oy * stride + taps // size, ox * stride + taps % size, c), g)
    assert_same(pool.max_pool_grad(g, taps, x.shape, size, stride, pad), expected[:, pad:pad + 7, pad:pad + 9])


near = {np.float32: {"rtol": 2e-6, "atol": 1e-6}, np.float64: {"rtol": 1e-13, "atol": 1e-15}}


@each_float
@pytest.mark.parametrize("size", [1, walk.BLOCK + 1])
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
@pytest.mark.parametrize("size", [1, walk.BLOCK + 1])
@pytest.mark.parametrize("decay", [0, 0.01])
def test_adam(decay, size, dtype):
    w, m, v = normal(size, dtype), np.zeros(size, dtype), np.zeros(size, dtype)
    expected, mean, square = w.astype(np.float64), np.zeros(size), np.zeros(size)
    for step in range(1, 5):
        grad = normal(size, dtype, step)
        g = grad + decay * expected
        mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g * g
        expected = expected - 0.05 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-3)
        update.adam(w, grad, m, v, step, 0.05, 0.9, 0.99, 1e-3, decay)
    np.testing.assert_allclose(w, expected, **near[dtype])
    np.testing.assert_allclose(v, square, **near[dtype])


def test_same_bits_on_any_number_of_threads(thread_count):
    a, b = normal((8, 30, 30, 17)), normal((8, 30, 30, 17), seed=1)
    results = []
    for count in (1, 2, 3):
        thread_count(count)
        w, v = a.copy(), np.zeros_like(a)
        update.sgd(w, b, v, 0.1, 0.9, True, 0.01)
        results.append([w, norm.channel_sums(a, b), quantize.encode_gradient(a, quantize.max_magnitude(a), 4, key_of(0, 0)),
                        quantize.encode_sign(a)[1], quantize.encode_symmetric(a, 5, 4),
                        quantize.sums_by_code(a, np.uint8(a > 0), 1)[0], norm.channel_blend(a, b, *np.ones((3, 17))),
                        quantize.keep_mask(a.shape, 0.5, key_of(0, 1)), *pool.max_pool(a, 3, 2, 1), *quantize.encode_activation(a, 2)])
    for other in results[1:]:
        for first, found in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(found, first)


def test_nothing_is_done_to_no_samples():
    none = np.zeros((0, 4, 4, 3), np.float32)
    assert quantize.clip(none, 0, 1).shape == none.shape
    assert quantize.max_magnitude(none).shape == (0,)
    assert pool.max_pool(none, 2, 2, 0)[0].shape == (0, 2, 2, 3)
    assert (norm.channel_sums(none, none) == 0).all()
    assert norm.channel_affine(none, np.ones(3), np.ones(3)).shape == none.shape
