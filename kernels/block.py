"""The elementwise half of a block, fused: batch norm, max pool, clip and quantize on the accumulators of a convolution.

    forward    accum -> y = kappa * accum -> z = scale * y + shift -> [max of a window] -> code
    backward   g -> [to where the maximum came from] -> dz -> dy = scale * dz + slope * y + offset -> gradient codes

Unfused, every arrow is a walk over memory that reads and writes floats. Here y, z, dz and dy exist in registers only and are
computed again where they are needed; what lies in memory is the accumulators (int32), the codes and one byte a result:

    route   0: no gradient passes (z was outside [0, 1]);  t + 1: it goes to position t of the pooling window

Every rounding is the one that the unfused functions make, in the same order, so results are bit-identical to theirs.
"""

import numpy as np

from bitnet.kernels import threads
from bitnet.kernels.compile import inlined, kernel
from bitnet.kernels.elementwise import ROWS
from bitnet.kernels.noise import uniform
from bitnet.kernels.vectors import at, put


@inlined
def _real(accum, i, kappa):
    return np.float32(at(accum, i) * kappa)


@kernel
def _sums(start, stop, accum, kappa, rows, channels, partial):
    for tile in range(start, stop):
        base = tile * 2 * channels
        for c in range(2 * channels):
            put(partial, base + c, 0.0)
        for row in range(tile * 256, min((tile + 1) * 256, rows)):
            for c in range(channels):
                y = np.float64(_real(accum, row * channels + c, kappa))
                put(partial, base + c, at(partial, base + c) + y)
                put(partial, base + channels + c, at(partial, base + channels + c) + y * y)


def sums(accum, kappa):
    """Sums over all but the last axis of y and of y * y, y = kappa * accum in float32: float64 arrays (2, channels)."""
    channels = accum.shape[-1]
    rows = accum.size // channels
    partial = np.empty((-(-rows // ROWS), 2, channels))
    threads.run(_sums, len(partial), accum.reshape(-1), float(kappa), rows, channels, partial.reshape(-1))
    return partial.sum(axis=0)


@kernel
def _encode(start, stop, accum, kappa, scale, shift, height, width, channels, pool, out_height, out_width, top, codes, route):
    length = width * channels
    z = np.empty(pool * length, np.float32)
    best, place = np.empty(channels, np.float32), np.empty(channels, np.uint8)
    zero, one = np.float32(0), np.float32(1)
    for row in range(start, stop):  # a row of results
        sample, oy = row // out_height, row % out_height
        for dy in range(pool):
            source = (sample * height + oy * pool + dy) * length
            for i in range(length):
                put(z, dy * length + i, _real(accum, source + i, kappa) * at(scale, i) + at(shift, i))
        target = row * out_width * channels
        if pool == 1:
            for i in range(length):
                value = at(z, i)
                put(route, target + i, np.uint8((value >= zero) & (value <= one)))
                put(codes, target + i, np.uint8(np.int32(np.rint(top * min(max(value, zero), one)))))
            continue
        for ox in range(out_width):
            for tap in range(pool * pool):
                source = tap // pool * length + (ox * pool + tap % pool) * channels
                for c in range(channels):
                    better = (tap == 0) | (at(z, source + c) > at(best, c))
                    put(best, c, at(z, source + c) if better else at(best, c))
                    put(place, c, np.uint8(tap + 1) if better else at(place, c))
            for c in range(channels):
                value = at(best, c)
                put(route, target + c, at(place, c) if (value >= zero) & (value <= one) else np.uint8(0))
                put(codes, target + c, np.uint8(np.int32(np.rint(top * min(max(value, zero), one)))))
            target += channels


def encode(accum, kappa, scale, shift, pool, bits):
    """From accumulators to activation codes.

    Parameters
    ----------
    accum : int32 array (N, H, W, C); kappa : what one unit of it is worth
    scale, shift : float arrays (C,) of the batch norm
    pool : size of the max-pooling windows, which do not overlap; 1 for none
    bits : of the codes

    Returns
    -------
    codes, route : uint8 arrays (N, H // pool, W // pool, C)
    """
    samples, height, width, channels = accum.shape
    shape = (samples, height // pool, width // pool, channels)
    codes, route = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    scales, shifts = (np.tile(values.astype(np.float32), width) for values in (scale, shift))  # a row of pixels: long loops
    threads.run(_encode, samples * shape[1], accum.reshape(-1), float(kappa), scales, shifts, height, width, channels, pool,
                shape[1], shape[2], np.float32((1 << bits) - 1), codes.reshape(-1), route.reshape(-1))
    return codes, route


@inlined
def _cell(row, height, width, pool, out_height, out_width):
    """The result that position ``row`` of the accumulators belongs to (-1: none), and its place in the window, from 1."""
    sample, y, x = row // (height * width), row // width % height, row % width
    inside = (y // pool < out_height) & (x // pool < out_width)
    cell = (sample * out_height + y // pool) * out_width + x // pool
    return cell if inside else -1, y % pool * pool + x % pool + 1


@kernel
def _grad_sums(start, stop, g, route, accum, kappa, rows, height, width, channels, pool, out_height, out_width, partial):
    for tile in range(start, stop):
        base = tile * 2 * channels
        for c in range(2 * channels):
            put(partial, base + c, 0.0)
        for row in range(tile * 256, min((tile + 1) * 256, rows)):
            cell, place = _cell(row, height, width, pool, out_height, out_width)
            if cell >= 0:
                for c in range(channels):
                    passes = at(route, cell * channels + c) == place
                    dz = np.float64(at(g, cell * channels + c)) if passes else 0.0
                    y = np.float64(_real(accum, row * channels + c, kappa))
                    put(partial, base + c, at(partial, base + c) + dz)
                    put(partial, base + channels + c, at(partial, base + channels + c) + dz * y)


def grad_sums(g, route, accum, kappa, pool):
    """Sums over all but the last axis of dz and of dz * y: float64 arrays (2, channels)."""
    _, height, width, channels = accum.shape
    rows = accum.size // channels
    partial = np.empty((-(-rows // ROWS), 2, channels))
    threads.run(_grad_sums, len(partial), g.reshape(-1), route.reshape(-1), accum.reshape(-1), float(kappa), rows, height,
                width, channels, pool, g.shape[1], g.shape[2], partial.reshape(-1))
    return partial.sum(axis=0)


@kernel
def _grad_codes(start, stop, g, route, accum, kappa, scale, slope, offset, height, width, channels, pool, out_height,
                out_width, top, key0, key1, largest, codes):
    pixels = height * width
    row_grad = np.empty(pixels * channels, np.float32)
    bits = row_grad.view(np.int32)
    half = np.float32(0.5) * top
    for sample in range(start, stop):
        peak = np.int32(0)
        for p in range(pixels):
            cell, place = _cell(sample * pixels + p, height, width, pool, out_height, out_width)
            source = (sample * pixels + p) * channels
            if cell >= 0:
                for c in range(channels):
                    dz = at(g, cell * channels + c) if at(route, cell * channels + c) == place else np.float32(0)
                    y = _real(accum, source + c, kappa)
                    put(row_grad, p * channels + c, dz * at(scale, c) + y * at(slope, c) + at(offset, c))
            else:
                for c in range(channels):
                    y = _real(accum, source + c, kappa)
                    put(row_grad, p * channels + c, np.float32(0) * at(scale, c) + y * at(slope, c) + at(offset, c))
            for c in range(channels):
                peak = max(peak, np.int32(at(bits, p * channels + c) & 0x7FFFFFFF))
        bits[0], peak = peak, bits[0]
        largest[sample] = row_grad[0]
        bits[0] = peak
        whole = largest[sample] if largest[sample] > 0 else np.float32(1)
        base = sample * pixels * channels
        for i in range(pixels * channels):
            level = at(row_grad, i) / whole * half + half + np.float32(uniform(key0, key1, base + i))
            put(codes, base + i, np.uint8(np.int32(np.rint(min(max(level, np.float32(0)), top)))))


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
    samples, height, width, channels = accum.shape
    codes, largest = np.empty(accum.shape, np.uint8), np.empty(samples, np.float32)
    threads.run(_grad_codes, samples, g.reshape(-1), route.reshape(-1), accum.reshape(-1), float(kappa),
                scale.astype(np.float32), slope.astype(np.float32), offset.astype(np.float32), height, width, channels, pool,
                g.shape[1], g.shape[2], np.float32((1 << bits) - 1), *key, largest, codes.reshape(-1))
    return codes, largest
