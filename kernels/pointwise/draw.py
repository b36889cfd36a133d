"""Noise as an array, for what is computed outside of kernels."""

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.noise import uniform
from bitnet.kernels.machine.vectors import put
from bitnet.kernels.pointwise.walk import TILE, tiles_of


@kernel
def _uniform(start, stop, size, key0, key1, out):
    for i in range(start * TILE, min(stop * TILE, size)):
        put(out, i, np.float32(uniform(key0, key1, i)))


def uniform_array(shape, key):
    """float32 array of ``shape``, uniform in (-1/2, 1/2): element i (in C order) is ``noise.uniform`` of the draw ``key``."""
    out = np.empty(shape, np.float32)
    threads.run(_uniform, tiles_of(out.size), out.size, *key, out.reshape(-1))
    return out
