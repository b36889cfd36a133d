"""Everything that is not a product: rescaling, quantizing, batch norm, pooling, optimizer steps. One walk over memory each.

A function ``name`` cuts the work into tiles whose size depends on shapes alone and runs ``_name`` on them; sums are taken
per tile in float64 and added in tile order. Arrays are C-contiguous; floats may be float32 or float64.
"""

import math

import numpy as np

from bitnet.kernels import threads
from bitnet.kernels.compile import inlined, kernel
from bitnet.kernels.noise import uniform
from bitnet.kernels.vectors import at, put

BLOCK = 1 << 14  # elements of one tile: small against a level-2 cache
ROWS = 256       # pixels of one tile of an image, about
SEGMENT = 512    # numbers in a loop over pixels and channels


def blocks(size):
    """How many tiles of ``BLOCK`` elements an array of that size has."""
    return -(-size // BLOCK)


# Weights

@kernel
def _encode_sign(start, stop, w, codes, partial):
    lanes = np.empty(SEGMENT)
    for tile in range(start, stop):
        lanes[:] = 0
        last = min((tile + 1) * 16384, w.size)
        for first in range(tile * 16384, last, SEGMENT):
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
    codes, partial = np.empty(w.shape, np.uint8), np.empty(blocks(w.size))
    threads.run(_encode_sign, len(partial), w.reshape(-1), codes.reshape(-1), partial)
    return codes, float(partial.sum() / w.size)


@kernel
def _sums_by_code(start, stop, x, codes, partial, counts):
    for tile in range(start, stop):
        for i in range(tile * 16384, min((tile + 1) * 16384, x.size)):
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
    shape = blocks(x.size), 1 << bits
    partial, counts = np.zeros(shape), np.zeros(shape, np.int64)
    threads.run(_sums_by_code, shape[0], x.reshape(-1), codes.reshape(-1), partial, counts)
    return partial.sum(axis=0), counts.sum(axis=0)


@kernel
def _look_up(start, stop, table, codes, out):
    for i in range(start * 16384, min(stop * 16384, codes.size)):
        put(out, i, at(table, at(codes, i)))


def look_up(table, codes):
    """``table[codes]`` of a uint8 array."""
    out = np.empty(codes.shape, table.dtype)
    threads.run(_look_up, blocks(codes.size), table, codes.reshape(-1), out.reshape(-1))
    return out


def tanh(w):
    """tanh of every element, by NumPy, in blocks."""
    out = np.empty_like(w)
    source, target = w.reshape(-1), out.reshape(-1)

    def work(start, stop):
        part = slice(start * BLOCK, stop * BLOCK)
        np.tanh(source[part], out=target[part])

    threads.run(work, blocks(w.size))
    return out


@kernel
def _encode_symmetric(start, stop, t, largest, half, top, codes):
    for i in range(start * 16384, min(stop * 16384, t.size)):
        put(codes, i, np.uint8(np.int32(np.rint(top * (at(t, i) / largest * half + half)))))


def encode_symmetric(t, largest, bits):
    """The nearest of 2**bits levels from -largest to largest: uint8 codes rint(n * (t / (2 * largest) + 1/2))."""
    codes, number = np.empty(t.shape, np.uint8), t.dtype.type
    threads.run(_encode_symmetric, blocks(t.size), t.reshape(-1), number(largest), number(0.5), number((1 << bits) - 1),
                codes.reshape(-1))
    return codes


# Activations

@kernel
def _encode_activation(start, stop, x, top, codes, window):
    for i in range(start * 16384, min(stop * 16384, x.size)):
        value = at(x, i)
        put(window, i, np.uint8((value >= 0) & (value <= 1)))
        put(codes, i, np.uint8(np.int32(np.rint(top * min(max(value, x.dtype.type(0)), x.dtype.type(1))))))


def encode_activation(x, bits):
    """Clip to [0, 1] and round to 2**bits levels.

    Returns
    -------
    codes : uint8 array of x's shape, rint((2**bits - 1) * clip(x, 0, 1)), halves to even
    window : uint8 array of x's shape, 1 where 0 <= x <= 1: where the gradient passes
    """
    codes, window = np.empty(x.shape, np.uint8), np.empty(x.shape, np.uint8)
    threads.run(_encode_activation, blocks(x.size), x.reshape(-1), x.dtype.type((1 << bits) - 1), codes.reshape(-1),
                window.reshape(-1))
    return codes, window


@kernel
def _apply_window(start, stop, g, window, out):
    for i in range(start * 16384, min(stop * 16384, g.size)):
        put(out, i, at(g, i) if at(window, i) else g.dtype.type(0))


def apply_window(g, window):
    """``g`` where ``window`` (uint8) is not 0, else 0."""
    out = np.empty(g.shape, g.dtype)
    threads.run(_apply_window, blocks(g.size), g.reshape(-1), window.reshape(-1), out.reshape(-1))
    return out


@kernel
def _clip(start, stop, x, low, high, out):
    for i in range(start * 16384, min(stop * 16384, x.size)):
        put(out, i, min(max(at(x, i), low), high))


def clip(x, low, high):
    """``x`` limited to [low, high]."""
    out = np.empty(x.shape, x.dtype)
    threads.run(_clip, blocks(x.size), x.reshape(-1), x.dtype.type(low), x.dtype.type(high), out.reshape(-1))
    return out


@kernel
def _clip_grad(start, stop, g, x, low, high, out):
    for i in range(start * 16384, min(stop * 16384, g.size)):
        value = at(x, i)
        put(out, i, at(g, i) if (value >= low) & (value <= high) else g.dtype.type(0))


def clip_grad(g, x, low, high):
    """``g`` where low <= x <= high, else 0."""
    out = np.empty(g.shape, g.dtype)
    threads.run(_clip_grad, blocks(g.size), g.reshape(-1), x.reshape(-1), x.dtype.type(low), x.dtype.type(high),
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
    return np.uint8(np.int32(np.rint(min(max(level, np.float32(0)), half + half))))


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


def gradient_limits(dtype, bits):
    """n / 2 and the largest factor of ``gradient_code``, in the gradient's type."""
    return dtype.type(((1 << bits) - 1) / 2), np.finfo(dtype).max


@kernel
def _keep_mask(start, stop, size, drop, key0, key1, mask):
    for i in range(start * 16384, min(stop * 16384, size)):
        put(mask, i, np.uint8(uniform(key0, key1, i) >= drop))


def keep_mask(shape, drop, key):
    """uint8 array: 0 with probability ``drop``, else 1, from the draw with this key."""
    mask = np.empty(shape, np.uint8)
    threads.run(_keep_mask, blocks(mask.size), mask.size, np.float32(drop - 0.5), *key, mask.reshape(-1))
    return mask


# Batch normalisation: matrices of (rows, channels)

def lines_of(shape):
    """How an image (..., H, W, C) is walked over: (lines, line, segment), in numbers, not pixels. (rows, C) has no lines.

    A line of W pixels is W * C numbers that lie side by side, and a loop over them is fast also where C is small. It is taken
    in segments of whole pixels, such that what a loop adds to, or multiplies with, stays in the level-1 cache.
    """
    width, channels = shape[-2] if len(shape) > 2 else 1, max(1, shape[-1])
    parts = -(-width // max(1, SEGMENT // channels))
    return math.prod(shape[:-1]) // max(1, width), width * channels, -(-width // max(1, parts)) * channels


def over_lines(kernel, shape, *args):
    """Run a kernel that leaves two float64 sums a channel for each tile of lines, and add the tiles: (2, channels)."""
    lines, line, segment = lines_of(shape)
    channels = shape[-1]
    per_tile = max(1, ROWS * channels // max(1, line))
    partial = np.empty((-(-lines // per_tile), 2, channels))
    threads.run(kernel, len(partial), *args, lines, line, segment, channels, per_tile, partial.reshape(-1))
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


@kernel
def _channel_sums(start, stop, a, b, lines, line, segment, channels, per_tile, partial):
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


@inlined
def repeated(values, segment):
    """Values of the channels for each pixel of a segment."""
    line = np.empty((segment // values.size, values.size), values.dtype)
    for x in range(len(line)):
        line[x] = values
    return line.reshape(-1)


@kernel
def _channel_affine(start, stop, x, scale, shift, line, segment, out):
    scales, shifts = repeated(scale, segment), repeated(shift, segment)
    for row in range(start, stop):
        for first in range(row * line, (row + 1) * line, segment):
            for i in range(min(segment, (row + 1) * line - first)):
                put(out, first + i, at(x, first + i) * at(scales, i) + at(shifts, i))


def channel_affine(x, scale, shift):
    """``x * scale + shift`` with one scale and shift for each channel (the last axis)."""
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
    out = np.empty(a.shape, a.dtype)
    lines, line, segment = lines_of(a.shape)
    threads.run(_channel_blend, lines, a.reshape(-1), b.reshape(-1), scale_a.astype(a.dtype), scale_b.astype(a.dtype),
                shift.astype(a.dtype), line, segment, out.reshape(-1))
    return out


# Pooling

@kernel
def _max_pool(start, stop, x, height, width, channels, out_height, out_width, size, stride, pad, out, taps):
    for sample in range(start, stop):
        for oy in range(out_height):
            for ox in range(out_width):
                target = ((sample * out_height + oy) * out_width + ox) * channels
                seen = False
                for tap in range(size * size):
                    y = oy * stride + tap // size - pad
                    x_ = ox * stride + tap % size - pad
                    if 0 <= y < height and 0 <= x_ < width:
                        source = ((sample * height + y) * width + x_) * channels
                        if not seen:
                            seen = True
                            for c in range(channels):
                                put(out, target + c, at(x, source + c))
                                put(taps, target + c, np.uint8(tap))
                        else:
                            for c in range(channels):
                                better = at(x, source + c) > at(out, target + c)
                                put(out, target + c, at(x, source + c) if better else at(out, target + c))
                                put(taps, target + c, np.uint8(tap) if better else at(taps, target + c))


def max_pool(x, size, stride, pad):
    """Largest value of each window, for floats or codes.

    Returns
    -------
    out : array (N, OH, OW, C) of x's dtype
    taps : uint8 array of the same shape: which of the size * size positions it came from, the first on ties
    """
    samples, height, width, channels = x.shape
    shape = (samples, (height + 2 * pad - size) // stride + 1, (width + 2 * pad - size) // stride + 1, channels)
    out, taps = np.empty(shape, x.dtype), np.empty(shape, np.uint8)
    threads.run(_max_pool, samples, x.reshape(-1), height, width, channels, shape[1], shape[2], size, stride, pad,
                out.reshape(-1), taps.reshape(-1))
    return out, taps


@kernel
def _max_pool_grad(start, stop, g, taps, height, width, channels, out_height, out_width, size, stride, pad, out):
    for sample in range(start, stop):
        for i in range(sample * height * width * channels, (sample + 1) * height * width * channels):
            put(out, i, g.dtype.type(0))
        for oy in range(out_height):
            for ox in range(out_width):
                source = ((sample * out_height + oy) * out_width + ox) * channels
                for tap in range(size * size):
                    y = oy * stride + tap // size - pad
                    x = ox * stride + tap % size - pad
                    if 0 <= y < height and 0 <= x < width:
                        target = ((sample * height + y) * width + x) * channels
                        for c in range(channels):
                            share = at(g, source + c) if at(taps, source + c) == tap else g.dtype.type(0)
                            put(out, target + c, at(out, target + c) + share)


def max_pool_grad(g, taps, shape, size, stride, pad):
    """Every gradient back to the position that its value came from: array of ``shape``."""
    out = np.empty(shape, g.dtype)
    threads.run(_max_pool_grad, len(g), g.reshape(-1), taps.reshape(-1), shape[1], shape[2], shape[3], g.shape[1], g.shape[2],
                size, stride, pad, out.reshape(-1))
    return out


# Optimizers

@kernel
def _sgd(start, stop, parameter, grad, velocity, lr, momentum, nesterov, decay):
    for i in range(start * 16384, min(stop * 16384, parameter.size)):
        g = at(grad, i) + decay * at(parameter, i)
        v = momentum * at(velocity, i) + g
        put(velocity, i, v)
        put(parameter, i, at(parameter, i) - lr * (g + momentum * v if nesterov else v))


def sgd(parameter, grad, velocity, lr, momentum, nesterov, decay):
    """One step of stochastic gradient descent, in place."""
    number = parameter.dtype.type
    threads.run(_sgd, blocks(parameter.size), parameter.reshape(-1), grad.reshape(-1), velocity.reshape(-1), number(lr),
                number(momentum), nesterov, number(decay))


@kernel
def _adam(start, stop, parameter, grad, mean, square, rate, beta1, beta2, correction, eps, decay):
    one = parameter.dtype.type(1)
    for i in range(start * 16384, min(stop * 16384, parameter.size)):
        g = at(grad, i) + decay * at(parameter, i)
        m = beta1 * at(mean, i) + (one - beta1) * g
        v = beta2 * at(square, i) + (one - beta2) * g * g
        put(mean, i, m)
        put(square, i, v)
        put(parameter, i, at(parameter, i) - rate * m / (np.sqrt(v * correction) + eps))


def adam(parameter, grad, mean, square, step, lr, beta1, beta2, eps, decay):
    """Step number ``step`` (from 1) of Adam, in place: arXiv:1412.6980, algorithm 1."""
    number = parameter.dtype.type
    threads.run(_adam, blocks(parameter.size), parameter.reshape(-1), grad.reshape(-1), mean.reshape(-1), square.reshape(-1),
                number(lr / (1 - beta1 ** step)), number(beta1), number(beta2), number(1 / (1 - beta2 ** step)), number(eps),
                number(decay))


# Checks

def all_finite(*arrays):
    """Whether no array holds an infinity or a NaN; one pass over memory where its squares do not overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        for array in arrays:
            flat = np.ravel(array)
            if flat.dtype.kind == "f" and not (math.isfinite(np.vdot(flat, flat)) or np.isfinite(flat).all()):
                return False
    return True
