"""Noise as an array, for what is computed outside of kernels."""

import numpy as np

from bitnet.kernels import threads
from bitnet.kernels.compile import kernel
from bitnet.kernels.elementwise import BLOCK
from bitnet.kernels.noise import uniform
from bitnet.kernels.vectors import put


@kernel
def _uniform(start, stop, size, key0, key1, out):
    for i in range(start * 16384, min(stop * 16384, size)):
        put(out, i, np.float32(uniform(key0, key1, i)))


def uniform_array(shape, key):
    """float32 array of ``shape``, uniform in (-1/2, 1/2): element i (in C order) is ``noise.uniform`` of the draw ``key``."""
    out = np.empty(shape, np.float32)
    threads.run(_uniform, -(-out.size // BLOCK), out.size, *key, out.reshape(-1))
    return out
