"""The NumPy reference against the definition, written out as loops: the oracle of all other tests has one too."""

from itertools import product

import numpy as np
import pytest

from bitnet.kernels.products import reference
from bitnet.kernels.products.geometry import Conv

CASES = [
    (Conv(2, 3, (2, 3)), (4, 5)),
    (Conv(1, 2, (3, 2), (2, 1), ((1, 0), (0, 2))), (5, 4)),
    (Conv(4, 6, (2, 2), (1, 3), ((2, 1), (1, 1)), groups=2), (3, 4)),
    (Conv(3, 3, (1, 1), (2, 2), groups=3), (4, 3)),  # stride > kernel: some pixels meet no tap
    (Conv(2, 2, (3, 3), (1, 1), ((2, 2), (2, 2))), (1, 1)),
]


def brute_force(x, w, g, conv):
    """All three products, one multiplication at a time."""
    (samples, height, width, _), (_, out_height, out_width, _) = x.shape, g.shape
    y, dx, dw = np.zeros_like(g), np.zeros_like(x), np.zeros((samples, *w.shape), w.dtype)
    for n, oy, ox, f, ky, kx, c in product(*map(range, (samples, out_height, out_width, conv.out_channels,
                                                        *conv.kernel_size, conv.group_in))):
        iy = oy * conv.stride[0] + ky - conv.padding[0][0]
        ix = ox * conv.stride[1] + kx - conv.padding[1][0]
        channel = f // conv.group_out * conv.group_in + c
        if 0 <= iy < height and 0 <= ix < width:
            y[n, oy, ox, f] += x[n, iy, ix, channel] * w[ky, kx, c, f]
            dx[n, iy, ix, channel] += g[n, oy, ox, f] * w[ky, kx, c, f]
            dw[n, ky, kx, c, f] += g[n, oy, ox, f] * x[n, iy, ix, channel]
    return y, dx, dw


@pytest.mark.parametrize("conv, size", CASES)
def test_reference_is_the_definition(conv, size):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (2, *size, conv.in_channels))
    w = rng.integers(-9, 10, conv.weight_shape)
    g = rng.integers(-9, 10, (2, *conv.output_size(*size), conv.out_channels))
    y, dx, dw = brute_force(x, w, g, conv)
    np.testing.assert_array_equal(reference.forward(x, w, conv), y)
    np.testing.assert_array_equal(reference.input_grad(g, w, conv, size), dx)
    np.testing.assert_array_equal(reference.weight_grad(g, x, conv), dw)
