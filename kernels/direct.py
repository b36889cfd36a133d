"""Float convolutions with few input channels, such as a network's first layer, without im2col.

With 3 channels, im2col copies 75 numbers for every pixel of a 5x5 filter only to multiply each by 48. Here a register tile
reads them where they are. A filter row is one run of kw * C neighbouring floats, so position k of the filter lies at a fixed
distance ``offsets[k]`` from a pixel's first tap:

    forward       8 pixels x 16 output channels   y[p, f]  = sum over k   x[start(p) + offsets[k]] * w[k, f]
    weight_grad   8 positions k x 16 channels     dw[k, f] = sum over p   x[start(p) + offsets[k]] * g[p, f]
"""

from functools import lru_cache

import numpy as np

from bitnet.kernels import threads
from bitnet.kernels.compile import kernel
from bitnet.kernels.vectors import at, load_floats, multiply_add, put, store_floats

COLUMNS = 16
ROW_BLOCK = 256
PARTS = 16  # partial sums of a weight gradient, added in a fixed order


def serves(x, conv):
    """Is this a convolution that the kernels here are made for?"""
    return x.dtype == np.float32 and conv.groups == 1 and conv.in_channels * conv.kernel[1] <= 32


@lru_cache(maxsize=64)
def _tables(conv, size):
    """Start of each output pixel, and distance of each filter position, in floats of a padded image."""
    out_size = conv.output_size(*size)
    width = size[1] + sum(conv.padding[1])
    starts = np.arange(out_size[0])[:, None] * conv.stride[0] * width + np.arange(out_size[1]) * conv.stride[1]
    run = conv.kernel[1] * conv.in_channels
    offsets = np.arange(conv.kernel[0])[:, None] * width * conv.in_channels + np.arange(run)
    return starts.ravel() * conv.in_channels, offsets.ravel()


def _padded(x, conv):
    return np.ascontiguousarray(np.pad(x, ((0, 0), *conv.padding, (0, 0))) if np.any(conv.padding) else x)


def _blocks(conv):
    return -(-conv.out_channels // COLUMNS)


@kernel
def _forward(start, stop, x, w, bias, y, starts, offsets, samples, sample_size, columns, blocks):
    pixels = starts.size
    i, n = np.zeros(8, np.int64), np.zeros(8, np.int64)
    for tile in range(start, stop):
        block = tile % blocks
        row = tile // blocks * 256
        last = min(row + 256, samples * pixels)
        weight = block * offsets.size * 16
        sample, p = row // pixels, row % pixels
        while row < last:
            for k in range(8):  # past the last pixel, it is read again and not written
                put(i, k, sample * sample_size + at(starts, p))
                put(n, k, columns - 16 * block if row + k < last else 0)
                if row + k < last - 1:
                    p += 1
                    if p == pixels:
                        p = 0
                        sample += 1
            i0, i1, i2, i3, i4, i5, i6, i7 = at(i, 0), at(i, 1), at(i, 2), at(i, 3), at(i, 4), at(i, 5), at(i, 6), at(i, 7)
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = load_floats(bias, 16 * block)
            for k in range(offsets.size):
                filters, o = load_floats(w, weight + 16 * k), at(offsets, k)
                a0, a1 = multiply_add(a0, x, i0 + o, filters), multiply_add(a1, x, i1 + o, filters)
                a2, a3 = multiply_add(a2, x, i2 + o, filters), multiply_add(a3, x, i3 + o, filters)
                a4, a5 = multiply_add(a4, x, i4 + o, filters), multiply_add(a5, x, i5 + o, filters)
                a6, a7 = multiply_add(a6, x, i6 + o, filters), multiply_add(a7, x, i7 + o, filters)
            target = row * columns + 16 * block
            store_floats(y, target, a0, at(n, 0))
            store_floats(y, target + columns, a1, at(n, 1))
            store_floats(y, target + 2 * columns, a2, at(n, 2))
            store_floats(y, target + 3 * columns, a3, at(n, 3))
            store_floats(y, target + 4 * columns, a4, at(n, 4))
            store_floats(y, target + 5 * columns, a5, at(n, 5))
            store_floats(y, target + 6 * columns, a6, at(n, 6))
            store_floats(y, target + 7 * columns, a7, at(n, 7))
            row += 8


def forward(x, w, conv, bias=None):
    """``dense.forward`` of float32 arrays, plus a bias (F,): float32 array (N, OH, OW, F)."""
    out_size, blocks = conv.output_size(*x.shape[1:3]), _blocks(conv)
    starts, offsets = _tables(conv, x.shape[1:3])
    weight = np.zeros((len(offsets), blocks * COLUMNS), np.float32)
    weight[:, :conv.out_channels] = w.reshape(-1, conv.out_channels)
    weight = np.ascontiguousarray(weight.reshape(-1, blocks, COLUMNS).transpose(1, 0, 2))
    shift = np.zeros(blocks * COLUMNS, np.float32)
    shift[:conv.out_channels] = 0 if bias is None else bias
    x = _padded(x, conv)
    y = np.empty((len(x), *out_size, conv.out_channels), np.float32)
    tiles = -(-len(x) * len(starts) // ROW_BLOCK) * blocks
    threads.run(_forward, tiles, x.reshape(-1), weight.reshape(-1), shift, y.reshape(-1), starts, offsets, len(x), x[:1].size,
                conv.out_channels, blocks)
    return y


@kernel
def _weight_grad(start, stop, x, g, partial, starts, offsets, bounds, sample_size, columns, blocks):
    pixels = starts.size
    for tile in range(start, stop):
        part, block = tile // blocks, tile % blocks
        for k in range(0, offsets.size, 8):
            o0, o1, o2, o3 = at(offsets, k), at(offsets, k + 1), at(offsets, k + 2), at(offsets, k + 3)
            o4, o5, o6, o7 = at(offsets, k + 4), at(offsets, k + 5), at(offsets, k + 6), at(offsets, k + 7)
            target = ((part * blocks + block) * offsets.size + k) * 16
            a0, a1, a2, a3 = (load_floats(partial, target), load_floats(partial, target + 16),
                              load_floats(partial, target + 32), load_floats(partial, target + 48))
            a4, a5, a6, a7 = (load_floats(partial, target + 64), load_floats(partial, target + 80),
                              load_floats(partial, target + 96), load_floats(partial, target + 112))
            for sample in range(bounds[part], bounds[part + 1]):
                for p in range(pixels):
                    i = sample * sample_size + at(starts, p)
                    gradient = load_floats(g, (sample * pixels + p) * columns + 16 * block)
                    a0, a1 = multiply_add(a0, x, i + o0, gradient), multiply_add(a1, x, i + o1, gradient)
                    a2, a3 = multiply_add(a2, x, i + o2, gradient), multiply_add(a3, x, i + o3, gradient)
                    a4, a5 = multiply_add(a4, x, i + o4, gradient), multiply_add(a5, x, i + o5, gradient)
                    a6, a7 = multiply_add(a6, x, i + o6, gradient), multiply_add(a7, x, i + o7, gradient)
            store_floats(partial, target, a0, 16)
            store_floats(partial, target + 16, a1, 16)
            store_floats(partial, target + 32, a2, 16)
            store_floats(partial, target + 48, a3, 16)
            store_floats(partial, target + 64, a4, 16)
            store_floats(partial, target + 80, a5, 16)
            store_floats(partial, target + 96, a6, 16)
            store_floats(partial, target + 112, a7, 16)


def weight_grad(g, x, conv):
    """``dense.weight_grad`` of float32 arrays: float32 array (kh, kw, C, F)."""
    starts, offsets = _tables(conv, x.shape[1:3])
    depth, blocks = len(offsets), _blocks(conv)
    x = _padded(x, conv)
    if conv.out_channels % COLUMNS:
        g = np.pad(g, ((0, 0), (0, 0), (0, 0), (0, blocks * COLUMNS - conv.out_channels)))
    g = np.ascontiguousarray(g)
    parts = min(PARTS, len(x))
    bounds = np.array([len(x) * part // parts for part in range(parts + 1)])
    offsets = np.append(offsets, np.zeros(-depth % 8, np.int64))  # fill the last tile; its extra rows are dropped
    partial = np.zeros((parts, blocks, len(offsets), COLUMNS), np.float32)
    threads.run(_weight_grad, parts * blocks, x.reshape(-1), g.reshape(-1), partial.reshape(-1), starts, offsets, bounds,
                x[:1].size, blocks * COLUMNS, blocks)
    total = partial[0]
    for part in partial[1:]:
        total += part
    grad = total[:, :depth].transpose(1, 0, 2).reshape(depth, -1)[:, :conv.out_channels]
    return np.ascontiguousarray(grad).reshape(conv.weight_shape)
