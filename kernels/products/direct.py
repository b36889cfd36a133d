"""Float convolutions with few input channels, such as a network's first layer, without im2col; and a whole first block.

With 3 channels, im2col copies 75 numbers for every pixel of a 5x5 filter only to multiply each by 48. Here a register tile
reads them where they are. A filter row is one run of kw * C neighbouring floats, so position k of the filter lies at a fixed
distance ``offsets[k]`` from a pixel's first tap:

    forward       6 pixels x 16 output channels   y[p, f]  = sum over k   x[start(p) + offsets[k]] * w[k, f]
    weight_grad   6 positions k x 16 channels     dw[k, f] = sum over p   x[start(p) + offsets[k]] * g[p, f]

Six rows of 16 are what 16 registers of 8 floats can hold beside the operands; larger registers lose nothing by it.

A block of convolution, max pool, clip and quantizer needs no y in memory. ``encode`` computes the pixels of one row of pooling
windows into a few kilobytes that stay in cache, first those at position 0 of every window, then those at position 1, ...:
pooling is then the largest of pool * pool long rows. Codes leave it, and one byte a result that says where it came from:

    route   0: no gradient passes (the value was outside [0, 1]);  t + 1: it goes to position t of the pooling window

So most pixels get no gradient: of a 2x2 window one does, in each channel another one. ``block_grads`` visits only these:

    dw[:, f] += g[cell, f] * (the patch of x under the filter at position route[cell, f] - 1 of the cell's window)
"""

from functools import lru_cache

import numpy as np

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.compile import kernel
from bitnet.kernels.machine.vectors import at, load_floats, multiply_add, put, store_floats
from bitnet.kernels.products.spatial import COLUMNS, panels_for
from bitnet.kernels.rounding import activation_code

RUN = 32      # floats of a filter row at most: with more of them, im2col is worth it
ROWS = 6      # of a register tile, which has six named registers: another number would be another tile
PIXELS = 240  # of one tile of a convolution
PARTS = 16    # partial sums of a weight gradient, added in a fixed order
LINES = 5     # vectors of weights that are summed in one visit of a patch, in five named registers


def serves(x, conv):
    """Is this a convolution that the kernels here are made for?"""
    return x.dtype == np.float32 and conv.groups == 1 and conv.in_channels * conv.kernel_size[1] <= RUN


def _pitch(conv, size):
    """Floats of one row of a padded image."""
    return (size[1] + sum(conv.padding[1])) * conv.in_channels


@lru_cache(maxsize=64)
def _tables(conv, size):
    """Start of each output pixel (OH, OW), and distance of each filter position, in floats of a padded image."""
    height, width = conv.output_size(*size)
    pitch = _pitch(conv, size)
    starts = np.arange(height)[:, None] * conv.stride[0] * pitch + np.arange(width) * conv.stride[1] * conv.in_channels
    offsets = np.arange(conv.kernel_size[0])[:, None] * pitch + np.arange(conv.kernel_size[1] * conv.in_channels)
    return starts, offsets.ravel()


@lru_cache(maxsize=64)
def _window_tables(conv, size, pool):
    """Start of each pooling window (OH // pool, OW // pool), and distance of each of its positions (pool * pool)."""
    starts, _ = _tables(conv, size)
    height, width = (length // pool for length in starts.shape)
    return np.ascontiguousarray(starts[:height * pool:pool, :width * pool:pool]), starts[:pool, :pool].ravel()


def _padded(x, conv):
    return np.ascontiguousarray(np.pad(x, ((0, 0), *conv.padding, (0, 0))) if np.any(conv.padding) else x)


def _packed(w, bias, conv):
    """Weight in panels of 16 columns (panels, kh * kw * C, 16), and bias; columns past the last are zero."""
    panels = panels_for(conv.out_channels)
    weight = np.zeros((w.size // conv.out_channels, panels * COLUMNS), np.float32)
    weight[:, :conv.out_channels] = w.reshape(-1, conv.out_channels)
    shift = np.zeros(panels * COLUMNS, np.float32)
    shift[:conv.out_channels] = 0 if bias is None else bias
    return np.ascontiguousarray(weight.reshape(-1, panels, COLUMNS).transpose(1, 0, 2)).reshape(-1), shift


@kernel
def _pixels(x, w, bias, y, source, target, starts, first, last, offsets, columns, panels):
    """Outputs of pixels first .. last - 1 of an image that begins at x[source]: pixel p to y[target + p * columns]."""
    for p in range(first, last, ROWS):  # past the last pixel, it is computed again
        p1, p2, p3 = min(p + 1, last - 1), min(p + 2, last - 1), min(p + 3, last - 1)
        p4, p5 = min(p + 4, last - 1), min(p + 5, last - 1)
        i0, i1, i2 = source + at(starts, p), source + at(starts, p1), source + at(starts, p2)
        i3, i4, i5 = source + at(starts, p3), source + at(starts, p4), source + at(starts, p5)
        for panel in range(panels):
            weight = panel * offsets.size * COLUMNS
            a0 = a1 = a2 = a3 = a4 = a5 = load_floats(bias, COLUMNS * panel)
            for k in range(offsets.size):
                filters, o = load_floats(w, weight + COLUMNS * k), at(offsets, k)
                a0, a1 = multiply_add(a0, x, i0 + o, filters), multiply_add(a1, x, i1 + o, filters)
                a2, a3 = multiply_add(a2, x, i2 + o, filters), multiply_add(a3, x, i3 + o, filters)
                a4, a5 = multiply_add(a4, x, i4 + o, filters), multiply_add(a5, x, i5 + o, filters)
            base, count = target + COLUMNS * panel, columns - COLUMNS * panel
            store_floats(y, base + p * columns, a0, count)
            store_floats(y, base + p1 * columns, a1, count)
            store_floats(y, base + p2 * columns, a2, count)
            store_floats(y, base + p3 * columns, a3, count)
            store_floats(y, base + p4 * columns, a4, count)
            store_floats(y, base + p5 * columns, a5, count)


@kernel
def _forward(start, stop, x, w, bias, y, starts, offsets, sample_size, columns, panels, tiles):
    for tile in range(start, stop):
        sample, first = tile // tiles, tile % tiles * PIXELS
        _pixels(x, w, bias, y, sample * sample_size, sample * starts.size * columns, starts, first,
                min(first + PIXELS, starts.size), offsets, columns, panels)


def forward(x, w, conv, bias=None):
    """``dense.forward`` of float32 arrays, plus a bias (F,): float32 array (N, OH, OW, F)."""
    starts, offsets = _tables(conv, x.shape[1:3])
    weight, shift = _packed(w, bias, conv)
    x = _padded(x, conv)
    y = np.empty((len(x), *starts.shape, conv.out_channels), np.float32)
    tiles = -(-starts.size // PIXELS)
    threads.run(_forward, len(x) * tiles, x.reshape(-1), weight, shift, y.reshape(-1), starts.reshape(-1), offsets, x[:1].size,
                conv.out_channels, panels_for(conv.out_channels), tiles)
    return y


@kernel
def _encode(start, stop, x, w, bias, tables, top, codes, route, sizes):
    (rows, starts, offsets), (sample_size, columns, panels, places) = tables, sizes
    length = starts.size // places * columns
    y = np.empty(places * length, np.float32)  # (position in the window, window, channel)
    best, place = np.empty(length, np.float32), np.empty(length, np.int32)  # as wide as each other: one vector loop for both
    zero, one = np.float32(0), np.float32(1)
    for row in range(start, stop):  # a row of windows
        source = row // rows.size * sample_size + at(rows, row % rows.size)
        _pixels(x, w, bias, y, source, 0, starts, 0, starts.size, offsets, columns, panels)
        for t in range(places):
            for i in range(length):
                better = (t == 0) | (at(y, t * length + i) > at(best, i))
                put(best, i, at(y, t * length + i) if better else at(best, i))
                put(place, i, np.int32(t + 1) if better else at(place, i))
        for i in range(length):
            value = at(best, i)
            put(route, row * length + i, np.uint8(at(place, i) if (value >= zero) & (value <= one) else np.int32(0)))
            put(codes, row * length + i, activation_code(value, top))


def encode(x, w, conv, bias, pool, bits):
    """A first block: convolution, max pool, clip to [0, 1] and rounding to 2**bits levels.

    The codes are those that ``forward``, ``pool.max_pool`` and ``quantize.encode_activation`` give.

    Parameters
    ----------
    x : float32 array (N, H, W, C); w : float32 array (kh, kw, C, F); conv : Conv that ``serves``
    bias : float32 array (F,), or None
    pool : size of the max-pooling windows, at most 15, which do not overlap; 1 for none
    bits : of the codes

    Returns
    -------
    codes, route : uint8 arrays (N, OH // pool, OW // pool, F)
    """
    _, offsets = _tables(conv, x.shape[1:3])
    windows, positions = _window_tables(conv, x.shape[1:3], pool)
    starts = (positions[:, None] + windows[0]).reshape(-1)  # of one row of windows
    weight, shift = _packed(w, bias, conv)
    x = _padded(x, conv)
    shape = (len(x), *windows.shape, conv.out_channels)
    codes, route = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    threads.run(_encode, len(x) * len(windows), x.reshape(-1), weight, shift,
                (np.ascontiguousarray(windows[:, 0]), starts, offsets), np.float32((1 << bits) - 1), codes.reshape(-1),
                route.reshape(-1), (x[:1].size, conv.out_channels, panels_for(conv.out_channels), pool * pool))
    return codes, route


@kernel
def _block_grads(start, stop, x, g, route, partial, sums, tables, sizes):
    cells, moves, lines, bounds = tables
    height, row, corner, pitch, image_size, channels = sizes
    image = np.zeros(image_size, np.float32)  # one sample with its padding
    where, value = np.empty(channels * cells.size, np.int32), np.empty(channels * cells.size, np.float32)
    count = np.empty(channels, np.int64)
    for part in range(start, stop):
        for sample in range(bounds[part], bounds[part + 1]):
            for y in range(height):
                for i in range(row):
                    put(image, corner + y * pitch + i, at(x, (sample * height + y) * row + i))
            for f in range(channels):
                put(count, f, f * cells.size)
            for cell in range(cells.size):  # a list for each channel: what passes, and to which patch
                source = (sample * cells.size + cell) * channels
                for f in range(channels):
                    i, way = at(count, f), at(route, source + f)
                    put(where, i, at(cells, cell) + at(moves, np.int64(way)))
                    put(value, i, at(g, source + f))
                    put(count, f, i + np.int64(way != 0))  # what does not pass is overwritten by the next
            for f in range(channels):
                for line in range(0, lines.size, LINES):
                    o0, o1, o2 = at(lines, line), at(lines, line + 1), at(lines, line + 2)
                    o3, o4 = at(lines, line + 3), at(lines, line + 4)
                    target, total = ((part * channels + f) * lines.size + line) * COLUMNS, 0.0
                    a0, a1 = load_floats(partial, target), load_floats(partial, target + COLUMNS)
                    a2 = load_floats(partial, target + 2 * COLUMNS)
                    a3 = load_floats(partial, target + 3 * COLUMNS)
                    a4 = load_floats(partial, target + 4 * COLUMNS)
                    for i in range(f * cells.size, at(count, f)):
                        p = np.int64(at(where, i))
                        a0 = multiply_add(a0, value, i, load_floats(image, p + o0))
                        a1 = multiply_add(a1, value, i, load_floats(image, p + o1))
                        a2 = multiply_add(a2, value, i, load_floats(image, p + o2))
                        a3 = multiply_add(a3, value, i, load_floats(image, p + o3))
                        a4 = multiply_add(a4, value, i, load_floats(image, p + o4))
                        total += np.float64(at(value, i))
                    store_floats(partial, target, a0, COLUMNS)
                    store_floats(partial, target + COLUMNS, a1, COLUMNS)
                    store_floats(partial, target + 2 * COLUMNS, a2, COLUMNS)
                    store_floats(partial, target + 3 * COLUMNS, a3, COLUMNS)
                    store_floats(partial, target + 4 * COLUMNS, a4, COLUMNS)
                    if line == 0:
                        put(sums, part * channels + f, at(sums, part * channels + f) + total)


def block_grads(g, route, x, conv, pool):
    """Gradients of a first block.

    Parameters
    ----------
    g : float32 array (N, OH // pool, OW // pool, F), gradient with respect to the activations
    route : what ``encode`` returned for the same x, conv and pool

    Returns
    -------
    grad_weight : float32 array (kh, kw, C, F); grad_bias : float32 array (F,), summed in float64
    """
    size, channels = x.shape[1:3], conv.out_channels
    pitch, run = _pitch(conv, size), conv.kernel_size[1] * conv.in_channels
    windows, positions = _window_tables(conv, size, pool)
    vectors = -(-run // COLUMNS)  # of a filter row; the last one reads past the row, and what it sums there is dropped
    lines = (np.arange(conv.kernel_size[0])[:, None] * pitch + np.arange(vectors) * COLUMNS).reshape(-1)
    padded = np.append(lines, np.zeros(-len(lines) % LINES, np.int64))
    parts = max(1, min(PARTS, len(x)))
    bounds = np.array([len(x) * part // parts for part in range(parts + 1)])
    partial, sums = np.zeros((parts, channels, len(padded), COLUMNS), np.float32), np.zeros((parts, channels))
    (top, bottom), (left, _) = conv.padding
    threads.run(_block_grads, parts, np.ascontiguousarray(x).reshape(-1), np.ascontiguousarray(g, np.float32).reshape(-1),
                route.reshape(-1), partial.reshape(-1), sums.reshape(-1),
                (windows.reshape(-1), np.append(0, positions), padded, bounds),
                (size[0], size[1] * conv.in_channels, top * pitch + left * conv.in_channels, pitch,
                 (size[0] + top + bottom) * pitch + COLUMNS, channels))
    total = partial[0]
    for part in partial[1:]:
        total += part
    grad = total[:, :len(lines)].reshape(channels, conv.kernel_size[0], -1)[..., :run]  # (F, kh, kw * C)
    return np.ascontiguousarray(grad.transpose(1, 2, 0)).reshape(conv.weight_shape), sums.sum(axis=0).astype(np.float32)


@kernel
def _weight_grad(start, stop, x, g, partial, tables, sizes):
    (starts, offsets, bounds), (sample_size, columns, panels) = tables, sizes
    pixels = starts.size
    for tile in range(start, stop):
        part, panel = tile // panels, tile % panels
        for sample in range(bounds[part], bounds[part + 1]):  # its gradient stays in cache
            for k in range(0, offsets.size, ROWS):
                o0, o1, o2 = at(offsets, k), at(offsets, k + 1), at(offsets, k + 2)
                o3, o4, o5 = at(offsets, k + 3), at(offsets, k + 4), at(offsets, k + 5)
                target = ((part * panels + panel) * offsets.size + k) * COLUMNS
                a0, a1 = load_floats(partial, target), load_floats(partial, target + COLUMNS)
                a2, a3 = load_floats(partial, target + 2 * COLUMNS), load_floats(partial, target + 3 * COLUMNS)
                a4, a5 = load_floats(partial, target + 4 * COLUMNS), load_floats(partial, target + 5 * COLUMNS)
                for p in range(pixels):
                    i = sample * sample_size + at(starts, p)
                    gradient = load_floats(g, (sample * pixels + p) * columns + COLUMNS * panel)
                    a0, a1 = multiply_add(a0, x, i + o0, gradient), multiply_add(a1, x, i + o1, gradient)
                    a2, a3 = multiply_add(a2, x, i + o2, gradient), multiply_add(a3, x, i + o3, gradient)
                    a4, a5 = multiply_add(a4, x, i + o4, gradient), multiply_add(a5, x, i + o5, gradient)
                store_floats(partial, target, a0, COLUMNS)
                store_floats(partial, target + COLUMNS, a1, COLUMNS)
                store_floats(partial, target + 2 * COLUMNS, a2, COLUMNS)
                store_floats(partial, target + 3 * COLUMNS, a3, COLUMNS)
                store_floats(partial, target + 4 * COLUMNS, a4, COLUMNS)
                store_floats(partial, target + 5 * COLUMNS, a5, COLUMNS)


def weight_grad(g, x, conv):
    """``dense.weight_grad`` of float32 arrays: float32 array (kh, kw, C, F)."""
    starts, offsets = _tables(conv, x.shape[1:3])
    depth, panels = len(offsets), panels_for(conv.out_channels)
    x, starts = _padded(x, conv), starts.reshape(-1)
    if conv.out_channels % COLUMNS:
        g = np.pad(g, ((0, 0), (0, 0), (0, 0), (0, panels * COLUMNS - conv.out_channels)))
    g = np.ascontiguousarray(g)
    parts = min(PARTS, len(x))
    bounds = np.array([len(x) * part // parts for part in range(parts + 1)])
    offsets = np.append(offsets, np.zeros(-depth % ROWS, np.int64))  # fill the last tile; its extra rows are dropped
    partial = np.zeros((parts, panels, len(offsets), COLUMNS), np.float32)
    threads.run(_weight_grad, parts * panels, x.reshape(-1), g.reshape(-1), partial.reshape(-1), (starts, offsets, bounds),
                (x[:1].size, panels * COLUMNS, panels))
    total = partial[0]
    for part in partial[1:]:
        total += part
    grad = total[:, :depth].transpose(1, 0, 2).reshape(depth, -1)[:, :conv.out_channels]
    return np.ascontiguousarray(grad).reshape(conv.weight_shape)
