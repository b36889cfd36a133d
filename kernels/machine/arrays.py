"""Arrays that begin at a cache line, so that a vector of 64 bytes never straddles two."""

import ctypes
import math

import numpy as np

LINE = 64


def address_of(array):
    """Where a C-contiguous array begins."""
    if not array.flags.writeable:
        return array.ctypes.data  # takes four times as long
    return ctypes.addressof(ctypes.c_char.from_buffer(array))


def _aligned(allocate, shape, dtype):
    dtype = np.dtype(dtype)
    buffer = allocate(math.prod(shape) * dtype.itemsize + LINE, np.uint8)
    return np.ndarray(shape, dtype, buffer, -address_of(buffer) % LINE)


def empty(shape, dtype):
    """``numpy.empty``, aligned to 64 bytes."""
    return _aligned(np.empty, shape, dtype)


def zeros(shape, dtype):
    """``numpy.zeros``, aligned to 64 bytes."""
    return _aligned(np.zeros, shape, dtype)


def aligned(array, dtype):
    """A copy of ``array`` as ``dtype``, aligned to 64 bytes."""
    out = empty(array.shape, dtype)
    out[...] = array
    return out
