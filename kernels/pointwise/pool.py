"""Max pooling of floats or codes."""

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.vectors import at, put


@kernel
def _max_pool(start, stop, x, out, taps, shape, out_shape, window):
    (height, width, channels), (out_height, out_width), (size, stride, top, left) = shape, out_shape, window
    for sample in range(start, stop):
        for oy in range(out_height):
            for ox in range(out_width):
                target = ((sample * out_height + oy) * out_width + ox) * channels
                seen = False
                for tap in range(size * size):
                    y = oy * stride + tap // size - top
                    x_ = ox * stride + tap % size - left
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


def sides(pad):
    """((top, bottom), (left, right)) pixels of padding: ``pad`` itself, or of a number that on all sides."""
    return tuple(map(tuple, pad)) if isinstance(pad, (list, tuple)) else ((pad, pad), (pad, pad))


def pooled(size, window, stride, pad):
    """(OH, OW) of pooled images of size (H, W)."""
    return tuple((length + before + after - window) // stride + 1
                 for length, (before, after) in zip(size, sides(pad), strict=True))


def max_pool(x, size, stride, pad):
    """Largest value of each window, for floats or codes. ``pad``: see ``sides``; no window may lie in it alone.

    Returns
    -------
    out : array (N, OH, OW, C) of x's dtype
    taps : uint8 array of the same shape: which of the size * size positions it came from, the first on ties
    """
    shape = (len(x), *pooled(x.shape[1:3], size, stride, pad), x.shape[3])
    out, taps = np.empty(shape, x.dtype), np.empty(shape, np.uint8)
    threads.run(_max_pool, len(x), x.reshape(-1), out.reshape(-1), taps.reshape(-1), x.shape[1:], shape[1:3],
                _window(size, stride, pad))
    return out, taps


def _window(size, stride, pad):
    (top, _), (left, _) = sides(pad)
    return size, stride, top, left


@kernel
def _max_pool_grad(start, stop, g, taps, out, shape, out_shape, window):
    (height, width, channels), (out_height, out_width), (size, stride, top, left) = shape, out_shape, window
    for sample in range(start, stop):
        for i in range(sample * height * width * channels, (sample + 1) * height * width * channels):
            put(out, i, g.dtype.type(0))
        for oy in range(out_height):
            for ox in range(out_width):
                source = ((sample * out_height + oy) * out_width + ox) * channels
                for tap in range(size * size):
                    y = oy * stride + tap // size - top
                    x = ox * stride + tap % size - left
                    if 0 <= y < height and 0 <= x < width:
                        target = ((sample * height + y) * width + x) * channels
                        for c in range(channels):
                            share = at(g, source + c) if at(taps, source + c) == tap else g.dtype.type(0)
                            put(out, target + c, at(out, target + c) + share)


def max_pool_grad(g, taps, shape, size, stride, pad):
    """Every gradient back to the position that its value came from: array of ``shape``."""
    out = np.empty(shape, g.dtype)
    threads.run(_max_pool_grad, len(g), g.reshape(-1), taps.reshape(-1), out.reshape(-1), out.shape[1:], g.shape[1:3],
                _window(size, stride, pad))
    return out
