"""Sums and affine maps of the channels (the last axis) of an array: what batch normalisation consists of."""

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.vectors import at, put
from bitnet.kernels.pointwise.walk import add_lanes, check_channels, lines_of, over_lines, repeated


@kernel
def _channel_sums(start, stop, a, b, partial, walk):
    lines, line, segment, channels, per_tile = walk
    lanes = np.empty(2 * segment)
    for tile in range(start, stop):
        lanes[:] = 0
        for row in range(tile * per_tile, min((tile + 1) * per_tile, lines)):
            for first in range(row * line, (row + 1) * line, segment):
                for i in range(min(segment, (row + 1) * line - first)):
                    x, y = np.float64(at(a, first + i)), np.float64(at(b, first + i))
                    put(lanes, i, at(lanes, i) + x)
                    put(lanes, segment + i, at(lanes, segment + i) + x * y)
        add_lanes(lanes, segment, channels, partial, tile)


def channel_sums(a, b):
    """Sums over all but the last axis of ``a`` and of ``a * b``: float64 arrays (2, channels)."""
    return over_lines(_channel_sums, a.shape, a.reshape(-1), b.reshape(-1))


@kernel
def _channel_affine(start, stop, x, scale, shift, line, segment, out):
    scales, shifts = repeated(scale, segment), repeated(shift, segment)
    for row in range(start, stop):
        for first in range(row * line, (row + 1) * line, segment):
            for i in range(min(segment, (row + 1) * line - first)):
                put(out, first + i, at(x, first + i) * at(scales, i) + at(shifts, i))


def channel_affine(x, scale, shift):
    """``x * scale + shift`` with one scale and shift for each channel (the last axis)."""
    check_channels(x.shape, scale, shift)
    out = np.empty(x.shape, x.dtype)
    lines, line, segment = lines_of(x.shape)
    threads.run(_channel_affine, lines, x.reshape(-1), scale.astype(x.dtype), shift.astype(x.dtype), line, segment,
                out.reshape(-1))
    return out


@kernel
def _channel_blend(start, stop, a, b, scale_a, scale_b, shift, line, segment, out):
    scales_a, scales_b, shifts = repeated(scale_a, segment), repeated(scale_b, segment), repeated(shift, segment)
    for row in range(start, stop):
        for first in range(row * line, (row + 1) * line, segment):
            for i in range(min(segment, (row + 1) * line - first)):
                put(out, first + i, at(a, first + i) * at(scales_a, i) + at(b, first + i) * at(scales_b, i) + at(shifts, i))


def channel_blend(a, b, scale_a, scale_b, shift):
    """``a * scale_a + b * scale_b + shift``, scales and shift one for each channel."""
    check_channels(a.shape, scale_a, scale_b, shift)
    out = np.empty(a.shape, a.dtype)
    lines, line, segment = lines_of(a.shape)
    threads.run(_channel_blend, lines, a.reshape(-1), b.reshape(-1), scale_a.astype(a.dtype), scale_b.astype(a.dtype),
                shift.astype(a.dtype), line, segment, out.reshape(-1))
    return out
