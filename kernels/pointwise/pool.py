"""Max pooling of floats or codes."""

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.vectors import at, put


@kernel
def _max_pool(start, stop, x, out, taps, shape, out_shape, window):
    (height, width, channels), (out_height, out_width), (size, stride, pad) = shape, out_shape, window
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
    threads.run(_max_pool, samples, x.reshape(-1), out.reshape(-1), taps.reshape(-1), x.shape[1:], shape[1:3],
                (size, stride, pad))
    return out, taps


@kernel
def _max_pool_grad(start, stop, g, taps, out, shape, out_shape, window):
    (height, width, channels), (out_height, out_width), (size, stride, pad) = shape, out_shape, window
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
    threads.run(_max_pool_grad, len(g), g.reshape(-1), taps.reshape(-1), out.reshape(-1), out.shape[1:], g.shape[1:3],
                (size, stride, pad))
    return out
