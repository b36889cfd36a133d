"""What holds for every walk over memory: the same bits on any number of threads, and no harm in no work."""

import numpy as np
import pytest

from bitnet.kernels.machine.noise import key_of
from bitnet.kernels.pointwise import norm, pool, quantize, update, walk


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("shape", [(4, 30, 20, 17), (2, 1, 5, 3 * walk.SEGMENT), (7, 9, 1, 1), (3, 2, 1000, 3), (70, 12)])
def test_segments_are_whole_pixels_and_cover_a_line(shape):
    lines, line, segment = walk.lines_of(shape)
    assert lines * line == np.prod(shape)
    assert segment % shape[-1] == 0 and 0 < segment <= max(line, shape[-1])
    assert segment <= walk.SEGMENT or segment == shape[-1]


@pytest.mark.parametrize("size", [0, 1, walk.TILE, walk.TILE + 1])
def test_blocks_cover_an_array(size):
    assert (walk.tiles_of(size) - 1) * walk.TILE < size <= walk.tiles_of(size) * walk.TILE or size == walk.tiles_of(size) == 0


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
                        quantize.keep_mask(a.shape, 0.5, key_of(0, 1)), *pool.max_pool(a, 3, 2, 1),
                        *quantize.encode_activation(a, 2)])
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
