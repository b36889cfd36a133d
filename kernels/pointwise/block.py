"""The elementwise half of a block, fused: batch norm, max pool, clip and quantize on the accumulators of a convolution.

    forward    accum -> y = kappa * accum -> z = scale * y + shift -> [max of a window] -> code
    backward   g -> [to where the maximum came from] -> dz -> dy = scale * dz + slope * y + offset -> gradient codes

Unfused, every arrow is a walk over memory that reads and writes floats. Here y, z, dz and dy exist in registers only and are
computed again where they are needed; what lies in memory is the accumulators (integers), the codes and one byte a result:

    route   0: no gradient passes (z was outside [0, 1]);  t + 1: it goes to position t of the pooling window

Every rounding is the one that the unfused functions make, in the same order, so results are bit-identical to theirs.
"""

import numpy as np

from bitnet.kernels.machine import arrays, threads
from bitnet.kernels.machine.compile import inlined, kernel
from bitnet.kernels.machine.noise import uniform
from bitnet.kernels.machine.vectors import LANES, at, copy16, prefetch, put
from bitnet.kernels.pointwise.quantize import gradient_code, gradient_factor, gradient_limits
from bitnet.kernels.pointwise.walk import add_lanes, check_channels, lines_of, over_lines, repeated
from bitnet.kernels.rounding import activation_code

# Loops go over segments of a line of pixels (``walk.lines_of``), and the constants of the channels are repeated for each
# pixel of a segment. Pooling takes pixels out of lines, LANES numbers at a time: what is copied too much lands where the next
# pixel goes, and after the last one in SLACK.
SLACK = LANES
AHEAD = 512  # numbers after which a bit more of the next sample is fetched, a cache line at a time
LINE = arrays.LINE // np.dtype(np.float32).itemsize


@inlined
def _real(accum, i, kappa):
    return np.float32(at(accum, i)) * kappa


@kernel
def _sums(start, stop, accum, kappa, partial, walk):
    lines, line, segment, channels, per_tile = walk
    lanes = np.empty(2 * segment)
    for tile in range(start, stop):
        lanes[:] = 0
        for row in range(tile * per_tile, min((tile + 1) * per_tile, lines)):
            for first in range(row * line, (row + 1) * line, segment):
                for i in range(min(segment, (row + 1) * line - first)):
                    y = np.float64(_real(accum, first + i, kappa))
                    put(lanes, i, at(lanes, i) + y)
                    put(lanes, segment + i, at(lanes, segment + i) + y * y)
        add_lanes(lanes, segment, channels, partial, tile)


def sums(accum, kappa):
    """Sums over all but the last axis of y and of y * y, y = kappa * accum in float32: float64 arrays (2, channels)."""
    return over_lines(_sums, accum.shape, accum.reshape(-1), np.float32(kappa))


@kernel
def _encode(start, stop, accum, kappa, scale, shift, top, codes, route, shape, windows):
    (height, line, segment, channels), (pool, out_height, out_line) = shape, windows
    scales, shifts = repeated(scale, segment), repeated(shift, segment)
    z, tap = np.empty(pool * line + SLACK, np.float32), np.empty(out_line + SLACK, np.float32)
    best, place = z if pool == 1 else np.empty(out_line, np.float32), np.ones(out_line, np.uint8)
    zero, one = np.float32(0), np.float32(1)
    for row in range(start, stop):  # of results
        for y in range(pool):
            source = (row // out_height * height + row % out_height * pool + y) * line
            for first in range(0, line, segment):
                for i in range(min(segment, line - first)):
                    real = _real(accum, source + first + i, kappa)
                    put(z, y * line + first + i, real * at(scales, i) + at(shifts, i))
        if pool > 1:
            for t in range(pool * pool):
                origin = t // pool * line + t % pool * channels
                for x in range(0, out_line, channels):
                    for c in range(0, channels, LANES):
                        copy16(tap, x + c, z, origin + x * pool + c)
                for i in range(out_line):
                    better = (t == 0) | (at(tap, i) > at(best, i))
                    put(best, i, at(tap, i) if better else at(best, i))
                    put(place, i, np.uint8(t + 1) if better else at(place, i))
        target = row * out_line
        for i in range(out_line):
            value = at(best, i)
            put(route, target + i, at(place, i) if (value >= zero) & (value <= one) else np.uint8(0))
            put(codes, target + i, activation_code(value, top))


def encode(accum, kappa, scale, shift, pool, bits):
    """From accumulators to activation codes.

    Parameters
    ----------
    accum : integer array (N, H, W, C); kappa : what one unit of it is worth
    scale, shift : float arrays (C,) of the batch norm
    pool : size of the max-pooling windows, which do not overlap; 1 for none
    bits : of the codes

    Returns
    -------
    codes, route : uint8 arrays (N, H // pool, W // pool, C)
    """
    check_channels(accum.shape, scale, shift)
    samples, height, width, channels = accum.shape
    _, line, segment = lines_of(accum.shape)
    shape = (samples, height // pool, width // pool, channels)
    codes, route = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    threads.run(_encode, samples * shape[1], accum.reshape(-1), np.float32(kappa), scale.astype(np.float32),
                shift.astype(np.float32), np.float32((1 << bits) - 1), codes.reshape(-1), route.reshape(-1),
                (height, line, segment, channels), (pool, shape[1], shape[2] * channels))
    return codes, route


@inlined
def _line_of_dz(dz, parts, g, route, row, height, line, channels, pool, out_height, out_line):
    """dz of a line of pixels: g where the maximum was and clip let it pass, else 0. ``parts`` is for pool x columns."""
    y = row % height
    source = (row // height * out_height + y // pool) * out_line
    if y // pool >= out_height:  # no window reaches here
        for i in range(line):
            put(dz, i, np.float32(0))
    elif pool == 1:
        for i in range(line):
            put(dz, i, at(g, source + i) if at(route, source + i) else np.float32(0))
    else:
        for column in range(pool):
            place = np.uint8(y % pool * pool + column + 1)
            for i in range(out_line):
                passes = at(route, source + i) == place
                put(parts, column * out_line + i, at(g, source + i) if passes else np.float32(0))
        for x in range(0, out_line, channels):
            for column in range(pool):
                for c in range(0, channels, LANES):
                    copy16(dz, x * pool + column * channels + c, parts, column * out_line + x + c)
        for i in range(pool * out_line, line):
            put(dz, i, np.float32(0))


@kernel
def _grad_sums(start, stop, g, route, accum, kappa, height, windows, partial, walk):
    (pool, out_height, out_line), (lines, line, segment, channels, per_tile) = windows, walk
    lanes = np.empty(2 * segment)
    dz, parts = np.empty(line + SLACK, np.float32), np.empty(pool * out_line + SLACK, np.float32)
    for tile in range(start, stop):
        lanes[:] = 0
        for row in range(tile * per_tile, min((tile + 1) * per_tile, lines)):
            _line_of_dz(dz, parts, g, route, row, height, line, channels, pool, out_height, out_line)
            for first in range(0, line, segment):
                source = row * line + first
                for i in range(min(segment, line - first)):
                    d, y = np.float64(at(dz, first + i)), np.float64(_real(accum, source + i, kappa))
                    put(lanes, i, at(lanes, i) + d)
                    put(lanes, segment + i, at(lanes, segment + i) + d * y)
        add_lanes(lanes, segment, channels, partial, tile)


def grad_sums(g, route, accum, kappa, pool):
    """Sums over all but the last axis of dz and of dz * y: float64 arrays (2, channels)."""
    return over_lines(_grad_sums, accum.shape, g.reshape(-1), route.reshape(-1), accum.reshape(-1), np.float32(kappa),
                      accum.shape[1], (pool, g.shape[1], g.shape[2] * g.shape[3]))


@kernel
def _grad_codes(start, stop, g, route, accum, kappa, scale, slope, offset, largest, codes, limits, key, shape, windows):
    (half, limit), (key0, key1) = limits, key
    (height, line, segment, channels), (pool, out_height, out_line) = shape, windows
    size = height * line
    scales, slopes, offsets = repeated(scale, segment), repeated(slope, segment), repeated(offset, segment)
    dz, parts = np.empty(line + SLACK, np.float32), np.empty(pool * out_line + SLACK, np.float32)
    dy = np.empty(size, np.float32)  # of a sample, which stays in cache
    bits, magnitude = dy.view(np.int32), largest.view(np.int32)
    for sample in range(start, stop):
        peak = np.int32(0)
        for row in range(sample * height, (sample + 1) * height):
            _line_of_dz(dz, parts, g, route, row, height, line, channels, pool, out_height, out_line)
            source = row * line
            target = source - sample * size
            for first in range(0, line, segment):
                for i in range(min(segment, line - first)):
                    y = _real(accum, source + first + i, kappa)
                    d = at(dz, first + i) * at(scales, i) + y * at(slopes, i) + at(offsets, i)
                    put(dy, target + first + i, d)
            for i in range(target, target + line):
                peak = max(peak, np.int32(at(bits, i) & 0x7FFFFFFF))
        magnitude[sample] = peak
        factor = gradient_factor(largest[sample], half, limit)
        base = sample * size
        for first in range(0, size, AHEAD):
            for i in range(first, first + AHEAD, LINE):  # meanwhile the next sample comes from memory
                prefetch(accum, base + size + i)
                if pool == 1:
                    prefetch(g, base + size + i)
            for i in range(first, min(first + AHEAD, size)):
                put(codes, base + i, gradient_code(at(dy, i), factor, half, uniform(key0, key1, base + i)))


def grad_codes(g, route, accum, kappa, scale, slope, offset, pool, bits, key):
    """Codes of the gradient at the convolution's output, a sample at a time while it lies in cache.

    Parameters
    ----------
    g : float32 array (N, OH, OW, C), gradient with respect to the activations; route : what ``encode`` returned
    scale, slope, offset : (C,), dy = scale * dz + slope * y + offset
    bits, key : of the gradient's codes and of their noise

    Returns
    -------
    codes : uint8 array of accum's shape; largest : float32 array (N,), max |dy| of each sample
    """
    check_channels(accum.shape, scale, slope, offset)
    samples, height, _, channels = accum.shape
    _, line, segment = lines_of(accum.shape)
    codes, largest = np.empty(accum.shape, np.uint8), np.empty(samples, np.float32)
    scale, slope, offset = (values.astype(np.float32) for values in (scale, slope, offset))
    threads.run(_grad_codes, samples, g.reshape(-1), route.reshape(-1), accum.reshape(-1), np.float32(kappa), scale, slope,
                offset, largest, codes.reshape(-1), gradient_limits(g.dtype, bits), tuple(key),
                (height, line, segment, channels), (pool, g.shape[1], g.shape[2] * channels))
    return codes, largest
