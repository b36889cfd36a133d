"""The rounding of numbers to codes that all kernels share: one rounding, so that all of them make the same codes."""

import numpy as np

from bitnet.kernels.machine.compile import inlined


@inlined
def nearest_code(level):
    """rint(level), halves to even: a level from 0 to 255 as a code. By way of int32, as vectors of floats have it."""
    return np.uint8(np.int32(np.rint(level)))


@inlined
def activation_code(value, top):
    """rint(top * clip(value, 0, 1)): the code of an activation, where ``top`` is the largest one, in the value's type."""
    return nearest_code(top * min(max(value, np.float32(0)), np.float32(1)))
