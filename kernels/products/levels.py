"""The float family: the products of codes by float matrix products on their integer levels.

It answers "is popcount worth it on my machine" fairly, and checks the other families: floats are exact as long as no sum
reaches 2**24 (float32) or 2**53 (float64, taken where float32 would not do), so the integers are the same.
"""

import numpy as np

from bitnet.kernels.products import dense
from bitnet.kernels.products.geometry import largest_level, to_levels


def _exact(lhs, rhs, length):
    """The float type in which a sum of ``length`` products of the operands' levels is exact."""
    return np.float32 if largest_level(lhs) * largest_level(rhs) * length < 2 ** 24 else np.float64


def _scaled(accum, scale):
    accum = accum.astype(np.float32, copy=False)
    return np.multiply(accum, scale[:, None, None, None], out=accum)


def forward(x, w, conv, dtype=np.int32, scale=None):
    """``popcount.forward`` on floats: array (N, OH, OW, F) of ``dtype``, or scaled float32."""
    real = _exact(x, w, conv.group_in * conv.tap_count)
    accum = dense.forward(to_levels(x, real), to_levels(w, real), conv)
    return accum.astype(dtype) if scale is None else _scaled(accum, scale)


def input_grad(g, w, conv, size, scale):
    """``popcount.input_grad`` on floats: float32 array (N, H, W, C)."""
    real = _exact(g, w, conv.group_out * conv.tap_count)
    return _scaled(dense.input_grad(to_levels(g, real), to_levels(w, real), conv, size), scale)


def weight_grad(g, x, conv, scale):
    """``popcount.weight_grad`` on floats, a product a sample: float32 array (kh, kw, C / groups, F)."""
    real = _exact(g, x, g.values.shape[1] * g.values.shape[2])
    g_levels, x_levels = to_levels(g, real), to_levels(x, real)
    grad = np.zeros(conv.weight_shape, np.float32)
    for sample, one in enumerate(scale):
        product = dense.weight_grad(g_levels[sample:sample + 1], x_levels[sample:sample + 1], conv)
        grad += product.astype(np.float32, copy=False) * one
    return grad
