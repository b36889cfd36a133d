"""The float family: the products of codes by float matrix products on their integer levels.

It answers "is popcount worth it on my machine" fairly, and checks the other families: floats are exact as long as no sum
reaches 2**24 (float32) or 2**53 (float64, taken where float32 would not do), so the integers are the same.
"""

import numpy as np

from bitnet.kernels import dense
from bitnet.kernels.geometry import to_levels, top


def _exact(lhs, rhs, length):
    """The float type in which a sum of ``length`` products of the operands' levels is exact."""
    return np.float32 if top(lhs) * top(rhs) * length < 2 ** 24 else np.float64


def forward(x, w, conv):
    """``popcount.forward`` on floats: int32 array (N, OH, OW, F)."""
    dtype = _exact(x, w, conv.group_in * conv.kernel[0] * conv.kernel[1])
    return dense.forward(to_levels(x, dtype), to_levels(w, dtype), conv).astype(np.int32)


def input_grad(g, w, conv, size):
    """``popcount.input_grad`` on floats: int32 array (N, H, W, C)."""
    dtype = _exact(g, w, conv.group_out * conv.kernel[0] * conv.kernel[1])
    return dense.input_grad(to_levels(g, dtype), to_levels(w, dtype), conv, size).astype(np.int32)


def weight_grad(g, x, conv, scale):
    """``popcount.weight_grad`` on floats, a product a sample: float64 array (kh, kw, C / groups, F)."""
    dtype = _exact(g, x, g.values.shape[1] * g.values.shape[2])
    g_levels, x_levels = to_levels(g, dtype), to_levels(x, dtype)
    grad = np.zeros(conv.weight_shape)
    for sample in range(len(scale)):
        product = dense.weight_grad(g_levels[sample:sample + 1], x_levels[sample:sample + 1], conv)
        grad += product.astype(np.float64) * scale[sample]
    return grad
