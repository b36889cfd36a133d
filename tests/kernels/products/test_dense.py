"""Float convolutions: equal to the reference, and to themselves on any number of threads."""

import numpy as np
import pytest
from hypothesis import given
from strategies import brief, convolutions

from bitnet.kernels.products import dense, reference
from bitnet.kernels.products.geometry import Conv

SHAPES = {
    "1x1": (Conv(7, 5, (1, 1)), (4, 3)),
    "1x1 with padding": (Conv(7, 5, (1, 1), padding=((0, 1), (0, 0))), (4, 3)),
    "one pixel out": (Conv(300, 9, (4, 3)), (4, 3)),  # more rows than one tile of product_over_samples
    "groups": (Conv(6, 9, (3, 2), (1, 1), ((1, 1), (0, 1)), 3), (5, 6)),
    "groups, one pixel out": (Conv(6, 9, (5, 6), groups=3), (5, 6)),
    "stride": (Conv(3, 4, (2, 3), (3, 2), ((1, 0), (2, 1))), (7, 8)),
    "several tiles": (Conv(64, 3, (5, 5), padding=((2, 2), (2, 2))), (12, 12)),
}


def operands(conv, size, samples, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    out = (samples, *conv.output_size(*size), conv.out_channels)
    shapes = (samples, *size, conv.in_channels), conv.weight_shape, out
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def assert_equals_reference(conv, size, samples):
    x, w, g = operands(conv, size, samples)
    near = {"rtol": 1e-12, "atol": 1e-11}
    np.testing.assert_allclose(dense.forward(x, w, conv), reference.forward(x, w, conv), **near)
    np.testing.assert_allclose(dense.input_grad(g, w, conv, size), reference.input_grad(g, w, conv, size), **near)
    np.testing.assert_allclose(dense.weight_grad(g, x, conv), reference.weight_grad(g, x, conv).sum(axis=0), **near)


@brief
@given(convolutions(channels=(1, 3, 17)))
def test_random_layers_equal_the_reference(layer):
    assert_equals_reference(*layer, samples=2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("samples", [1, 19])  # 19: parts of a weight gradient of one and of two samples
def test_shapes_at_the_edge(samples, shape):
    assert_equals_reference(*SHAPES[shape], samples)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_is_kept(dtype):
    conv, size = SHAPES["groups"]
    x, w, g = operands(conv, size, 2, dtype=dtype)
    assert dense.forward(x, w, conv).dtype == dtype
    assert dense.input_grad(g, w, conv, size).dtype == dtype
    assert dense.weight_grad(g, x, conv).dtype == dtype


@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_on_any_number_of_threads(shape, thread_count):
    conv, size = SHAPES[shape]
    x, w, g = operands(conv, size, 37, dtype=np.float32)
    results = []
    for count in (1, 2, 3):
        thread_count(count)
        results.append((dense.forward(x, w, conv), dense.input_grad(g, w, conv, size), dense.weight_grad(g, x, conv)))
    for other in results[1:]:
        for first, found in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(found, first)


def test_product_over_samples():
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((5, 600)), rng.standard_normal((5, 7))
    np.testing.assert_allclose(dense.product_over_samples(x, g), x.T @ g, rtol=1e-13, atol=1e-13)


def test_operands_are_only_read():
    conv, size = SHAPES["stride"]
    arrays = operands(conv, size, 3)
    for array in arrays:
        array.flags.writeable = False
    x, w, g = arrays
    dense.forward(x, w, conv)
    dense.input_grad(g, w, conv, size)
    dense.weight_grad(g, x, conv)
