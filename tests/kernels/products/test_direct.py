"""Float convolutions with few channels, and the first block made of one: equal to the reference and to its unfused parts.

Most operands are small multiples of a power of two: then float32 is exact in any order, ties between pixels are frequent, and
so are values halfway between two codes.
"""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import brief, convolutions

from bitnet.kernels.pointwise import quantize
from bitnet.kernels.pointwise.pool import max_pool, max_pool_grad
from bitnet.kernels.products import direct, reference
from bitnet.kernels.products.geometry import Conv

SHAPES = {
    "first layer of SVHN": (Conv(3, 48, (5, 5)), (13, 12), 2),  # 9 x 8 outputs: the pool drops a row
    "narrow": (Conv(3, 6, (5, 5)), (12, 13), 2),
    "no pool": (Conv(3, 12, (3, 3), padding=((1, 1), (1, 1))), (7, 9), 1),
    "a large window": (Conv(2, 17, (3, 2), (1, 1), ((1, 0), (0, 2))), (11, 10), 3),
    "one window, many rows of the filter": (Conv(4, 5, (7, 8), (2, 3), ((0, 3), (2, 0))), (8, 14), 3),  # runs of 32 floats
    "runs of 21 floats": (Conv(3, 33, (7, 7), (2, 2), ((3, 3), (3, 3))), (18, 19), 2),
    "pixels": (Conv(1, 1, (1, 1)), (4, 5), 2),
    "more pixels than a tile": (Conv(1, 3, (2, 2)), (24, 20), 4),
}


def operands(conv, size, pool, samples=3, seed=0):
    """Image, weight, bias, and gradient of the codes, in multiples of 1/4, 1/16, 1/64 and 1."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, (samples, *size, conv.in_channels)) / 4
    w, b = rng.integers(-4, 5, conv.weight_shape) / 16, rng.integers(-16, 64, conv.out_channels) / 64
    out = (samples, *(length // pool for length in conv.output_size(*size)), conv.out_channels)
    return [array.astype(np.float32) for array in (x, w, b, rng.integers(-3, 4, out))]


def unfused(x, w, conv, b, pool, bits):
    """Codes and route by the functions that the block replaces."""
    y, taps = max_pool(direct.forward(x, w, conv, b), pool, pool, 0)
    codes, window = quantize.encode_activation(y, bits)
    return codes, np.where(window, taps + 1, 0)


def scattered(g, route, conv, size, pool):
    """Every gradient at the pixel that its code came from: float64 array (N, OH, OW, F)."""
    shape = (len(g), *conv.output_size(*size), conv.out_channels)
    passing = np.where(route > 0, g, 0).astype(np.float64)
    return max_pool_grad(passing, np.maximum(route, 1) - np.uint8(1), shape, pool, pool, 0)


def assert_block_equals_its_parts(conv, size, pool, bits, samples=3, seed=0):
    x, w, b, g = operands(conv, size, pool, samples, seed)
    codes, route = direct.encode(x, w, conv, b, pool, bits)
    assert codes.dtype == route.dtype == np.uint8
    expected = unfused(x, w, conv, b, pool, bits)
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_array_equal(route, expected[1])
    grad_weight, grad_bias = direct.block_grads(g, route, x, conv, pool)
    dy = scattered(g, route, conv, size, pool)
    np.testing.assert_array_equal(grad_weight, reference.weight_grad(dy, x.astype(np.float64), conv).sum(axis=0))
    np.testing.assert_array_equal(grad_bias, dy.sum(axis=(0, 1, 2)))
    assert grad_weight.dtype == grad_bias.dtype == np.float32
    return codes, route


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("samples", [1, 19])  # 19: partial sums of one and of two samples
def test_convolution_equals_the_reference(samples, shape):
    conv, size, _ = SHAPES[shape]
    x, w, b, g = operands(conv, size, 1, samples)
    double = [array.astype(np.float64) for array in (x, w, b, g)]
    assert direct.serves(x, conv)
    np.testing.assert_array_equal(direct.forward(x, w, conv, b), reference.forward(double[0], double[1], conv) + double[2])
    np.testing.assert_array_equal(direct.weight_grad(g, x, conv), reference.weight_grad(double[3], double[0], conv).sum(axis=0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("samples", [1, 19])
def test_block_equals_its_parts(samples, shape):
    assert_block_equals_its_parts(*SHAPES[shape], 2, samples)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width(bits):
    codes, route = assert_block_equals_its_parts(*SHAPES["first layer of SVHN"], bits)
    assert codes.max() == (1 << bits) - 1 and set(np.unique(route)) == set(range(5))


@brief
@given(convolutions(channels=(1, 2, 3, 17)), st.integers(1, 4), st.integers(1, 8), st.integers(0, 9))
def test_random_blocks_equal_their_parts(layer, pool, bits, seed):
    conv, size = layer
    assume(direct.serves(np.zeros(1, np.float32), conv) and min(conv.output_size(*size)) >= pool)
    assert_block_equals_its_parts(conv, size, pool, bits, seed=seed)


@pytest.mark.parametrize("pool", [1, 2])
def test_real_numbers(pool):
    conv, size, rng = Conv(3, 20, (5, 5)), (15, 16), np.random.default_rng(1)
    x, w = rng.random((7, *size, 3), np.float32), rng.normal(0, 0.15, conv.weight_shape).astype(np.float32)
    codes, route = direct.encode(x, w, conv, None, pool, 3)
    expected = unfused(x, w, conv, None, pool, 3)
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_array_equal(route, expected[1])
    g = rng.standard_normal(codes.shape, np.float32)
    grad_weight, grad_bias = direct.block_grads(g, route, x, conv, pool)
    dy = scattered(g, route, conv, size, pool)
    exact = reference.weight_grad(dy, x.astype(np.float64), conv).sum(axis=0)
    largest = reference.weight_grad(np.abs(dy), x.astype(np.float64), conv).sum(axis=0)  # sum of the terms' magnitudes
    assert (np.abs(grad_weight - exact) <= 2e-6 * largest).all()
    np.testing.assert_allclose(grad_bias, dy.sum(axis=(0, 1, 2)), rtol=1e-6)


def test_the_first_place_wins_a_tie():
    conv, x = Conv(1, 1, (1, 1)), np.full((1, 4, 4, 1), 0.5, np.float32)
    x[0, 2:, 2:, 0] = [[0, 0.25], [0.5, 0.5]]
    codes, route = direct.encode(x, np.ones(conv.weight_shape, np.float32), conv, None, 2, 1)
    np.testing.assert_array_equal(route.ravel(), [1, 1, 1, 3])
    np.testing.assert_array_equal(codes.ravel(), [0, 0, 0, 0])  # halfway goes to the even code


def test_nothing_passes():
    conv, size, pool = SHAPES["first layer of SVHN"]
    x, w, b, g = operands(conv, size, pool)
    _, route = direct.encode(x, w, conv, b, pool, 2)
    for gradient, way in ((np.zeros_like(g), route), (g, np.zeros_like(route))):
        grad_weight, grad_bias = direct.block_grads(gradient, way, x, conv, pool)
        assert not grad_weight.any() and not grad_bias.any()


def test_an_empty_batch():
    conv, size, pool = SHAPES["first layer of SVHN"]
    x, w, b, g = operands(conv, size, pool, samples=0)
    codes, route = direct.encode(x, w, conv, b, pool, 2)
    assert codes.shape == route.shape == g.shape
    grad_weight, grad_bias = direct.block_grads(g, route, x, conv, pool)
    assert grad_weight.shape == conv.weight_shape and not grad_weight.any() and not grad_bias.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_on_any_number_of_threads(shape, thread_count):
    conv, size, pool = SHAPES[shape]
    rng, results = np.random.default_rng(0), []
    x, w, b, g = (rng.standard_normal(array.shape, np.float32) for array in operands(conv, size, pool, 37))
    for count in (1, 2, 3):
        thread_count(count)
        codes, route = direct.encode(x, w, conv, b, pool, 4)
        results.append((codes, route, *direct.block_grads(g, route, x, conv, pool), direct.forward(x, w, conv, b)))
    for other in results[1:]:
        for first, found in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(found, first)


def test_operands_are_only_read_and_may_be_strided():
    conv, size, pool = SHAPES["a large window"]
    arrays = operands(conv, size, pool)
    expected = direct.encode(*arrays[:2], conv, arrays[2], pool, 2)
    grads = direct.block_grads(arrays[3], expected[1], arrays[0], conv, pool)
    x, w, b, g = (np.repeat(array, 2, axis=-1)[..., ::2] for array in arrays)
    for array in (x, w, b, g):
        array.flags.writeable = False
    found = direct.encode(x, w, conv, b, pool, 2)
    for a, b in zip((*found, *direct.block_grads(g, found[1], x, conv, pool)), (*expected, *grads), strict=True):
        np.testing.assert_array_equal(a, b)


# A page of images between two pages that must not be touched: a read past either end kills the process. The last line does it
# on purpose.
GUARDED = """
import ctypes, mmap
import numpy as np
from bitnet.kernels.products import direct
from bitnet.kernels.products.geometry import Conv
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 3 * page)
images = np.frombuffer(memory, np.float32, page // 4, page)
images[:] = 0.5
address = images.ctypes.data
protect = ctypes.CDLL(None).mprotect
protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
assert protect(address - page, page, 0) == protect(address + page, page, 0) == 0
for channels, kernel in ((1, (3, 5)), (1, (1, 1)), (2, (3, 16)), (4, (2, 5))):
    conv, x = Conv(channels, 16, kernel), images.reshape(2, -1, 32, channels)
    w = np.full(conv.weight_shape, 1 / 64, np.float32)
    codes, route = direct.encode(x, w, conv, None, 1, 2)
    grad_weight, grad_bias = direct.block_grads(np.ones(codes.shape, np.float32), route, x, conv, 1)
    assert (grad_bias == codes.size / 16).all() and (grad_weight == codes.size / 32).all()
    assert (direct.weight_grad(np.ones(codes.shape, np.float32), x, conv) == grad_weight).all()
    assert (direct.forward(x, w, conv) == w[..., 0].size / 128).all()
print("done", flush=True)
ctypes.string_at(address + page, 1)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs mprotect")
def test_nothing_is_read_beyond_the_images():
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS)
