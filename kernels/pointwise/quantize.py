"""Numbers to codes and back: weights, activations, gradients, dropout's masks; one walk over memory each."""

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import inlined, kernel
from bitnet.kernels.machine.noise import uniform
from bitnet.kernels.machine.vectors import at, put
from bitnet.kernels.pointwise.walk import SEGMENT, TILE, tiles_of
from bitnet.kernels.rounding import activation_code, nearest_code

# The roundings, each in one place: whatever kernel makes a code, it makes this one

@inlined
def gradient_factor(largest, half, limit):
    """What turns gradients from -largest to largest into levels from -half to half: rounded up, so that extremes stay extremes.

    It is finite also where the largest is 0, or so small that its inverse is not finite.
    """
    factor = half / largest
    return min(factor if factor * largest >= half else np.nextafter(factor, limit), limit)


@inlined
def gradient_code(value, factor, half, noise):
    """rint(clip(value * factor + half + noise, 0, 2 * half))."""
    level = value * factor + half + noise
    return nearest_code(min(max(level, np.float32(0)), half + half))


# Weights

@kernel
def _encode_sign(start, stop, w, codes, partial):
    lanes = np.empty(SEGMENT)
    for tile in range(start, stop):
        lanes[:] = 0
        last = min((tile + 1) * TILE, w.size)
        for first in range(tile * TILE, last, SEGMENT):
            for i in range(min(SEGMENT, last - first)):
                value = at(w, first + i)
                put(codes, first + i, np.uint8(value >= 0))
                put(lanes, i, at(lanes, i) + np.float64(abs(value)))
        partial[tile] = lanes.sum()


def encode_sign(w):
    """Signs of an array, and its mean magnitude.

    Returns
    -------
    codes : uint8 array of w's shape, 1 where w >= 0
    mean : float, of |w|, summed in float64
    """
    codes, partial = np.empty(w.shape, np.uint8), np.empty(tiles_of(w.size))
    threads.run(_encode_sign, len(partial), w.reshape(-1), codes.reshape(-1), partial)
    return codes, float(partial.sum() / w.size)


@kernel
def _sums_by_code(start, stop, x, codes, partial, counts):
    for tile in range(start, stop):
        for i in range(tile * TILE, min((tile + 1) * TILE, x.size)):
            code = at(codes, i)
            partial[tile, code] += np.float64(at(x, i))
            counts[tile, code] += 1


def sums_by_code(x, codes, bits):
    """Sum of the numbers that share a code, for each code.

    Parameters
    ----------
    x : float array
    codes : uint8 array of the same shape, each below 2**bits

    Returns
    -------
    sums : float64 array of 2**bits
    counts : int64 array of 2**bits, numbers in each sum
    """
    shape = tiles_of(x.size), 1 << bits
    partial, counts = np.zeros(shape), np.zeros(shape, np.int64)
    threads.run(_sums_by_code, shape[0], x.reshape(-1), codes.reshape(-1), partial, counts)
    return partial.sum(axis=0), counts.sum(axis=0)


@kernel
def _look_up(start, stop, table, codes, out):
    for i in range(start * TILE, min(stop * TILE, codes.size)):
        put(out, i, at(table, at(codes, i)))


def look_up(table, codes):
    """``table[codes]`` of a uint8 array."""
    out = np.empty(codes.shape, table.dtype)
    threads.run(_look_up, tiles_of(codes.size), table, codes.reshape(-1), out.reshape(-1))
    return out


@kernel
def _encode_symmetric(start, stop, t, largest, half, top, codes):
    for i in range(start * TILE, min(stop * TILE, t.size)):
        put(codes, i, nearest_code(top * (at(t, i) / largest * half + half)))


def encode_symmetric(t, largest, bits):
    """The nearest of 2**bits levels from -largest to largest: uint8 codes rint(n * (t / (2 * largest) + 1/2))."""
    codes, number = np.empty(t.shape, np.uint8), t.dtype.type
    threads.run(_encode_symmetric, tiles_of(t.size), t.reshape(-1), number(largest), number(0.5), number((1 << bits) - 1),
                codes.reshape(-1))
    return codes


# Activations

@kernel
def _encode_activation(start, stop, x, top, codes, mask):
    for i in range(start * TILE, min(stop * TILE, x.size)):
        value = at(x, i)
        put(mask, i, np.uint8((value >= 0) & (value <= 1)))
        put(codes, i, activation_code(value, top))


def encode_activation(x, bits):
    """Clip to [0, 1] and round to 2**bits levels.

    Returns
    -------
    codes : uint8 array of x's shape, rint((2**bits - 1) * clip(x, 0, 1)), halves to even
    mask : uint8 array of x's shape, 1 where 0 <= x <= 1: where the gradient passes
    """
    codes, mask = np.empty(x.shape, np.uint8), np.empty(x.shape, np.uint8)
    threads.run(_encode_activation, tiles_of(x.size), x.reshape(-1), x.dtype.type((1 << bits) - 1), codes.reshape(-1),
                mask.reshape(-1))
    return codes, mask


@kernel
def _apply_mask(start, stop, g, mask, out):
    for i in range(start * TILE, min(stop * TILE, g.size)):
        put(out, i, at(g, i) if at(mask, i) else g.dtype.type(0))


def apply_mask(g, mask):
    """``g`` where ``mask`` (uint8) is not 0, else 0."""
    out = np.empty(g.shape, g.dtype)
    threads.run(_apply_mask, tiles_of(g.size), g.reshape(-1), mask.reshape(-1), out.reshape(-1))
    return out


@kernel
def _clip(start, stop, x, low, high, out):
    for i in range(start * TILE, min(stop * TILE, x.size)):
        put(out, i, min(max(at(x, i), low), high))


def clip(x, low, high):
    """``x`` limited to [low, high]."""
    out = np.empty(x.shape, x.dtype)
    threads.run(_clip, tiles_of(x.size), x.reshape(-1), x.dtype.type(low), x.dtype.type(high), out.reshape(-1))
    return out


@kernel
def _clip_grad(start, stop, g, x, low, high, out):
    for i in range(start * TILE, min(stop * TILE, g.size)):
        value = at(x, i)
        put(out, i, at(g, i) if (value >= low) & (value <= high) else g.dtype.type(0))


def clip_grad(g, x, low, high):
    """``g`` where low <= x <= high, else 0."""
    out = np.empty(g.shape, g.dtype)
    threads.run(_clip_grad, tiles_of(g.size), g.reshape(-1), x.reshape(-1), x.dtype.type(low), x.dtype.type(high),
                out.reshape(-1))
    return out


# Gradients

@kernel
def _max_magnitude(start, stop, bits, size, mask, out):
    for sample in range(start, stop):
        largest = bits.dtype.type(0)
        for i in range(sample * size, (sample + 1) * size):
            largest = max(largest, bits.dtype.type(at(bits, i) & mask))
        out[sample] = largest


def max_magnitude(g):
    """max |g| of each sample: array (N,) of g's dtype. NaN counts as larger than any number.

    Without their sign bit, floats are ordered as the integers with the same bits are, and integer maxima vectorise.
    """
    integer = np.int32 if g.dtype == np.float32 else np.int64
    out = np.empty(len(g), integer)
    threads.run(_max_magnitude, len(g), g.reshape(-1).view(integer), g[:1].size, np.iinfo(integer).max, out)
    return out.view(g.dtype)


@kernel
def _encode_gradient(start, stop, g, largest, size, half, limit, key0, key1, codes):
    for sample in range(start, stop):
        factor = gradient_factor(largest[sample], half, limit)
        for i in range(sample * size, (sample + 1) * size):
            put(codes, i, gradient_code(at(g, i), factor, half, g.dtype.type(uniform(key0, key1, i))))


def encode_gradient(g, largest, bits, key):
    """Stochastic rounding of each sample's gradient to 2**bits levels between -max and max.

    Parameters
    ----------
    g : float array (N, ...); largest : (N,), max |g| of each sample; key : two uint32, the draw's noise

    Returns
    -------
    codes : uint8 array of g's shape, rint(clip(g * (n / 2 / max) + n / 2 + sigma, 0, n)), n = 2**bits - 1,
        sigma uniform in (-1/2, 1/2)
    """
    codes = np.empty(g.shape, np.uint8)
    threads.run(_encode_gradient, len(g), g.reshape(-1), largest, g[:1].size, *gradient_limits(g.dtype, bits), *key,
                codes.reshape(-1))
    return codes


@kernel
def _nearest_gradient(start, stop, g, largest, size, half, limit, codes):
    for sample in range(start, stop):
        factor = gradient_factor(largest[sample], half, limit)
        for i in range(sample * size, (sample + 1) * size):
            level = min(max(at(g, i) * factor, -half), half) + half
            put(codes, i, np.uint8(level + g.dtype.type(0.5)))


def nearest_gradient(g, largest, bits):
    """The nearest of 2**bits levels between -max and max of each sample, halves up: as ``encode_gradient``, without noise."""
    codes = np.empty(g.shape, np.uint8)
    threads.run(_nearest_gradient, len(g), g.reshape(-1), largest, g[:1].size, *gradient_limits(g.dtype, bits),
                codes.reshape(-1))
    return codes


def gradient_limits(dtype, bits):
    """n / 2 and the largest factor of ``gradient_code``, in the gradient's type."""
    return dtype.type(((1 << bits) - 1) / 2), np.finfo(dtype).max


@kernel
def _keep_mask(start, stop, size, drop, key0, key1, mask):
    for i in range(start * TILE, min(stop * TILE, size)):
        put(mask, i, np.uint8(uniform(key0, key1, i) >= drop))


def keep_mask(shape, drop, key):
    """uint8 array: 0 with probability ``drop``, else 1, from the draw with this key."""
    mask = np.empty(shape, np.uint8)
    threads.run(_keep_mask, tiles_of(mask.size), mask.size, np.float32(drop - 0.5), *key, mask.reshape(-1))
    return mask
