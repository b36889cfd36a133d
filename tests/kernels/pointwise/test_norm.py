"""Sums and affine maps of channels, against their formulas in NumPy."""

import numpy as np
import pytest

from bitnet.kernels.pointwise import block, norm, walk

each_float = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# (N, H, W) or (N, W)
IMAGES = [(1, 1, 1), (1, walk.ROWS + 3, 1), (9, 7, 5), (3, 40, 41), (2, 1, 2 * walk.SEGMENT + 1), (4, 70)]


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


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
    np.testing.assert_array_equal(norm.channel_affine(a, p, q), a * p + q, strict=True)
    np.testing.assert_array_equal(norm.channel_blend(a, b, p, q, r), a * p + b * q + r, strict=True)


def test_channels_of_a_matrix():
    a = normal((2 * walk.ROWS + 1, 10))
    wide = a.astype(np.float64)
    np.testing.assert_allclose(norm.channel_sums(a, a), [wide.sum(axis=0), (wide**2).sum(axis=0)], rtol=1e-12)


def test_channel_sums_are_taken_in_float64():
    a = np.full((100_000, 1), 0.1, np.float32)  # in float32 the sum drifts in the fourth digit
    assert norm.channel_sums(a, a)[0, 0] == pytest.approx(100_000 * float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5,), (1, 4)])
def test_constants_of_other_channels_are_refused(shape):
    x, good, bad = normal((2, 3, 4)), normal(4), normal(shape)
    accum = np.zeros((2, 3, 3, 4), np.int32)
    for call in (lambda: norm.channel_affine(x, good, bad), lambda: norm.channel_affine(x, bad, good),
                 lambda: norm.channel_blend(x, x, good, bad, good), lambda: block.encode(accum, 1.0, bad, good, 1, 2)):
        with pytest.raises(ValueError, match="expected a number for each channel"):
            call()
