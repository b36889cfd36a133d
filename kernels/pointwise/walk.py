"""How pointwise kernels walk over memory: in tiles whose size depends on shapes alone.

A function ``name`` cuts the work into tiles and runs ``_name`` on them; sums are taken per tile in float64 and added in tile
order, so they are the same on any number of threads. Arrays are C-contiguous; floats may be float32 or float64.
"""

import math
from functools import lru_cache

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import inlined
from bitnet.kernels.machine.vectors import at, put

TILE = 1 << 14  # elements of one tile: small against a level-2 cache
ROWS = 256       # pixels of one tile of an image, about
SEGMENT = 512    # numbers in a loop over pixels and channels


def tiles_of(size):
    """How many tiles of ``TILE`` elements an array of that size has."""
    return -(-size // TILE)


@lru_cache(maxsize=64)
def tiles_of_all(sizes):
    """The tiles of several arrays of these sizes: int64, which array and where in it, for each tile in turn."""
    return np.array([(k, first) for k, size in enumerate(sizes) for first in range(0, size, TILE)], np.int64).reshape(-1)


@lru_cache(maxsize=1024)
def lines_of(shape):
    """How an image (..., H, W, C) is walked over: (lines, line, segment), in numbers, not pixels. (rows, C) has no lines.

    A line of W pixels is W * C numbers that lie side by side, and a loop over them is fast also where C is small. It is taken
    in segments of whole pixels, such that what a loop adds to, or multiplies with, stays in the level-1 cache.
    """
    width, channels = shape[-2] if len(shape) > 2 else 1, max(1, shape[-1])
    parts = -(-width // max(1, SEGMENT // channels))
    return math.prod(shape[:-1]) // max(1, width), width * channels, -(-width // max(1, parts)) * channels


def check_channels(shape, *constants):
    """ValueError where arrays do not hold one number for each channel (the last axis): kernels do not look at bounds."""
    for values in constants:
        if values.shape != shape[-1:]:
            raise ValueError(f"expected a number for each channel of shape {shape}, got {values.shape}")


def over_lines(kernel, shape, *args):
    """Run a kernel that leaves two float64 sums a channel for each tile of lines, and add the tiles: (2, channels).

    The kernel is called with ``args``, the array of these sums, and (lines, line, segment, channels, lines of a tile).
    """
    lines, line, segment = lines_of(shape)
    channels = shape[-1]
    per_tile = max(1, ROWS * channels // max(1, line))
    partial = np.empty((-(-lines // per_tile), 2, channels))
    threads.run(kernel, len(partial), *args, partial.reshape(-1), (lines, line, segment, channels, per_tile))
    return partial.sum(axis=0)


@inlined
def add_lanes(lanes, segment, channels, partial, tile):
    """Add the sums of all pixels of a segment, one lane each, into the two sums of a channel."""
    for which in range(2):
        target = (tile * 2 + which) * channels
        for c in range(channels):
            put(partial, target + c, at(lanes, which * segment + c))
        for first in range(channels, segment, channels):
            for c in range(channels):
                put(partial, target + c, at(partial, target + c) + at(lanes, which * segment + first + c))


@inlined
def repeated(values, segment):
    """Values of the channels for each pixel of a segment."""
    line = np.empty(segment, values.dtype)
    for first in range(0, segment, values.size):
        for c in range(values.size):  # no assignment of a slice: Numba takes 2 s to compile what it says where shapes differ
            put(line, first + c, at(values, c))
    return line
